"""Tokens and the secret behind them."""
