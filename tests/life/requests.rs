//! Requests: repeated, clashing, malformed; and what the logs keep of them.
