"""Key provider, wrapped data keys, sealing, search tags and signing; knows nothing of HTTP or of call records."""
