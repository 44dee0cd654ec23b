"""Item vectors that a server has computed: served by digest, fetched by clients that have no language model."""
