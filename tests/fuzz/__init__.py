"""``make fuzz``: damaged images, records, messages and answers, and what is made of them."""
