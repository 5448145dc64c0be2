"""What only the embedded models need: autoencoder, text encoder, latents, oracle report."""
