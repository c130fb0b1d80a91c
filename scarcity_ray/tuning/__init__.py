"""The mathematics of a search for settings: what is proposed, and who is promoted. Nothing here plays a round."""
