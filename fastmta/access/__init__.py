"""Decide: may this client, sender, recipient do this?"""
