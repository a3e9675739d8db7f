"""The page on which a person sees what a run did, what went wrong, and what to do."""
