"""Speech to text: recognisers on programmed chips, and the pipeline of ``transcribe``."""
