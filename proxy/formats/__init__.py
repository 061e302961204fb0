"""Reading switch files: declarative profiles turn lines of any switch into the canonical frame, chunk by chunk."""
