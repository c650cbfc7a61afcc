"""Where documents come from: one package a kind, and what all kinds share."""
