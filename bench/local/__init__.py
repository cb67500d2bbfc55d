"""Local dispatch, load and reports beside the standard library's pools and worker-dispatcher."""
