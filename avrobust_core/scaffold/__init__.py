"""The distribution that `avrobust new-plugin` writes: names, drafts of each kind, templates, and their writing."""
