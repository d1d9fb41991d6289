"""The only room that imports deepspeed and megatron.core: it distributes the single-device models from outside."""
