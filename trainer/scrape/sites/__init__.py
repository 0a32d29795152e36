"""Where photos come from: a module for each kind of source; `site` has what they share, `choose` opens one."""
