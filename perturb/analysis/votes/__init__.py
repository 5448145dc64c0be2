"""People's votes on pairs of clips: win rates, agreement, and which metrics rank clips as people do."""
