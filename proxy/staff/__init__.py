"""Staff: who works here, in which roles, trained until when (47 CFR 64.2009(b))."""
