"""The paper: tensors in, tensors out. No files, no PIL, no ranks.

Shape letters: `B` images, `V` views, `N` patches, `h` `w` rows and columns of patches, `D`
features, `K` prototypes, `H` heads, `P` prefix tokens (class token, registers).
"""
