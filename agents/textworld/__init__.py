"""The family of text worlds: environments that speak in sentences and take their own actions as text."""
