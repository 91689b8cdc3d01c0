"""The watch: what joins the judgement and the edges, for as long as the process lives."""
