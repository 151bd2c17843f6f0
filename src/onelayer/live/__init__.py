"""The page: a local server, or plain files, with which a person turns knobs and watches a layer learn."""
