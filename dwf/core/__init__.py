"""The nouns that everybody shares. Imports torch, numpy, pydantic and the standard library, and nothing of ours."""
