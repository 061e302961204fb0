"""The carrier's side: what `tollgate pull` is made of. Knows the published interface only, nothing of the gateway."""
