"""Texts to summarize."""

ARTICLE = "A fox met a hen by the river. The hen was old and wise. The fox ran away and never came back."
LONG = "\n\n".join(f"Tale {n}. {ARTICLE} {ARTICLE}" for n in range(30)) + "\n"  # past a context of 512 tokens
