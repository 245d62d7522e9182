"""Names of parameters: `network/~/block/~/conv0` is a module, `w` its parameter."""


def is_classifier(module: str) -> bool:
  """Returns whether `module` is the name of a network's final linear layer.

  That is a module called `linear` or `classifier` directly under the network, as `NFNet/~/linear`;
  the linear layers of squeeze-excite are nested deeper.
  """
  parts = [part for part in module.split('/') if part != '~']
  return len(parts) == 2 and parts[1] in ('linear', 'classifier')
