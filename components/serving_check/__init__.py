"""InfraValidator's question answered without Docker: does the exported model load and answer as it was judged?"""
