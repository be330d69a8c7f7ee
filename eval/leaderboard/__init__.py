"""The leaderboard: every method on the same sentences, with what is known of each."""
