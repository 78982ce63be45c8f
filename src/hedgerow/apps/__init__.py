"""Ready applications: a bundle, how it was made, a page of explanation; almost no code."""
