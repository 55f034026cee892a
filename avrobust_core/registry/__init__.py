"""Components and the plugins that offer them: hooks, discovery, loading in isolation, looking up."""
