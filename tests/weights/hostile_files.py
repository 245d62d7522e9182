"""Files that claim, nest or ask for what no file of parameters does, and what is said of each."""

import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib

import numpy as np

from tests.weights import torch_files

_START = b'\x80\x04'
_DTYPE = (
  b'cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb'
)
_BUFFER = b'cnumpy.core.numeric\n_frombuffer\n'


def _text(text):
  data = text.encode('utf-8', 'surrogatepass')
  return b'X' + struct.pack('<I', len(data)) + data


def _bytes(data):
  return b'B' + struct.pack('<I', len(data)) + data


def _in_net(value, name='w'):
  """A pickle of `{'net': {name: ...}}`, with what `value` pushes."""
  return _START + b'}' + _text('net') + b'}' + _text(name) + value + b'ss.'


def _array(shape, data=b'C\x04\0\0\0\0', dtype=_DTYPE):
  return _BUFFER + b'(' + data + dtype + shape + _text('C') + b'tR'


def _size(size):
  return b'\x8a\x08' + struct.pack('<q', size)


def _many_arrays(first, again, count=3000):
  """`count` arrays, all of them but the first by the same operations."""
  items = b''.join(_text(f'w{i}') + (again if i else first) for i in range(count))
  return _START + b'}' + _text('net') + b'}(' + items + b'us.'


def hostile_pickles():
  """Yields name, contents and a pattern of the message."""
  key = b'}' + b')' + b'\x85' * 450_000 + b'Ns.'
  yield 'key_deep', _START + key, 'a name of type tuple'
  yield 'key_deeper', _START + key.replace(b')', b')' + b'\x85' * 50_000), 'more than 500,000'
  deep = b')' + b'\x85' * 100_000
  yield 'value_deep', _START + b'}' + _text('net') + deep + b's.', "'net' holds a tuple"
  yield 'leaf_deep', _in_net(deep), "'net/w' is of type tuple"
  yield 'lists_deep', _in_net(b']' * 100_000 + b'a' * 99_999), 'is of type list'
  dicts = (b'}' + _text('a')) * 50_000 + b'N' + b's' * 50_000
  yield 'dicts_deep', _START + dicts + b'.', "'a/a' is of type dict"
  doubling = b')\x94' + b''.join(b'h' + bytes([i]) + b'\x86\x94' for i in range(60))
  yield 'doubling', _in_net(doubling), 'is of type tuple'
  yield 'doubling_key', _START + b'}' + doubling + b'Ns.', 'a name of type tuple'
  yield 'doubling_shape', _in_net(_array(doubling)), 'no possible shape'
  yield 'doubling_type', _in_net(b'cnumpy\ndtype\n' + doubling + b'\x85R'), 'arrays of type a tuple'
  yield 'doubling_call', _in_net(doubling + b')R'), 'a call of a tuple'
  yield 'doubling_build', _in_net(doubling + b'Nb'), 'the state of a tuple'
  yield 'list_of_itself', _START + b']\x94h\0a.', 'a pickled list'
  yield 'dict_of_itself', _START + b'}\x94' + _text('a') + b'h\0s.', "'a/a' is of type dict"
  yield 'memo_far', _START + b'}r\xff\xff\xff\xff.', 'no parameters'
  yield 'memo_missing', _START + b'j\xff\xff\xff\xff.', 'refers to nothing'
  for code, name in ((b'\x8d', 'text'), (b'\x8e', 'bytes'), (b'\x96', 'bytearray')):
    for length in (2**40, 2**63 - 1, 2**64 - 1):
      data = _in_net(code + struct.pack('<Q', length) + b'abc')
      yield f'long_{name}_{length}', data, 'beyond the end'
  yield 'long_frame', _START + b'\x95' + struct.pack('<Q', 2**63), 'cut off'
  yield 'long_number', _in_net(b'\x8a\xff' + b'\x7f' * 255), 'a number of 255 bytes'
  yield 'longer_number', _in_net(b'\x8b\xff\xff\xff\x7f'), 'operation LONG4'
  yield 'long_name', _START + b'c' + b'a' * 10**6 + b'\nb\n.', 'a name without an end'
  yield 'long_key', _START + b'}' + _text('k' * 10**6) + b'Ns.', 'a name of type str'
  yield 'longish_key', _in_net(_array(b')'), 'k' * 900), 'is not a name'
  yield 'marks', _START + b'(' * 499_000 + b'.', 'middle of a value'
  yield 'many_nones', _START + b'N' * 1_000_000, 'more than 500,000'
  for code in b'\x81\x92io\x82\x83\x84PQ\x97\x98\x8f\x90\x91\x0012dlISFLVgp':
    yield f'operation_{code:02x}', _START + bytes([code]) + b'\x01\x01\n\x01\n.', 'not need|no op'
  for code in b'usatRbe\x85\x86\x87\x93':
    yield f'nothing_for_{code:02x}', _START + bytes([code]) + b'.', 'is missing'
  buffer = _bytes(bytes(40_000))
  first = _array(_size(10_000) + b'\x85', buffer + b'q\0')
  again = _array(_size(10_000) + b'\x85', b'h\0')
  yield 'one_buffer', _many_arrays(first, again), 'claim the same bytes'
  latin1 = _text('\0' * 40_000)
  encode = b'c_codecs\nencode\n%b' + _text('latin1') + b'\x86R'
  first = _array(_size(10_000) + b'\x85', encode % (latin1 + b'q\0'))
  again = _array(_size(10_000) + b'\x85', encode % b'h\0')
  yield 'one_text', _many_arrays(first, again), 'claim the same bytes'
  for size in (9_999, 10_001):
    data = _array(_size(size) + b'\x85', encode % latin1)
    yield f'text_for_{size}', _in_net(data), f'bytes for an array of {4 * size:,}|as many'
  first = _array(_size(10_000) + b'\x85', buffer) + b'q\1'
  yield 'one_array', _many_arrays(first, b'h\1'), 'claims to hold 114.4 MiB'
  items = b''.join(_text(f'w{i}') + b'h\1' for i in range(1000))
  dicts = b''.join(_text(f'm{i}') + b'h\2' for i in range(100_000))
  data = _array(b')') + b'q\1'
  data = _START + b'}' + _text('m') + b'}' + _text('w') + data + b's(' + items + b'uq\2s(' + dicts
  yield 'one_dict', data + b'u.', '10,010 arrays; at most 10,000'
  shapes = {
    'huge': _size(2**40) + _size(2**40) + b'\x86',
    'huge_and_empty': _size(0) + _size(2**62) + b'\x86',
    'negative': _size(-1) + _size(-1) + b'\x86',
    'many_axes': b'(' + b'K\1' * 1000 + b't',
    'number': b'K\1',
    'of_text': _text('a') + b'\x85',
    'of_truth': b'\x88\x85',
  }
  for name, shape in shapes.items():
    data = _array(shape, b'C\0' if name == 'huge_and_empty' else b'C\x04\0\0\0\0')
    yield f'shape_{name}', _in_net(data), 'array of (no possible )?shape'
  data = _array(b')').replace(b'\x8c\x01<', b'\x8c\x01!')
  yield 'byte_order', _in_net(data), 'unknown byte order'
  for code in ('O8', 'c8', 'V4', 'U1', 'S4', 'f16', 'M8', 'f4,f4', '4f4', 'f4' * 400):
    data = _array(b')', dtype=b'cnumpy\ndtype\n' + _text(code) + b'\x85R')
    yield f'type_{code[:8]}', _in_net(data), r'arrays of type .*only real numbers'
  for name in ('builtins\nbytes', 'collections\nOrderedDict', 'numpy\nndarray'):
    data = b'c' + name.encode() + b'\n' + _size(2**40) + b'\x85R'
    yield f'call_{name[-5:]}', _in_net(data), 'a call with|only mention'
  yield 'twice', _START + b'}(' + (_text('a') + b'}') * 2 + b'u.', "'a' is there twice"
  for name in ('a/b', '', 'a\nb', 'a\0b', '\x1b[2J', '\u202e'):
    yield f'name_{name!r}', _in_net(_array(b')'), name), 'not a name|not of the form'
  for name in ('', '/net', '../net', 'net//x', 'net/'):
    data = _in_net(_array(b')')).replace(_text('net'), _text(name))
    yield f'module_{name!r}'.replace('/', '|'), data, 'not of the form'
  yield 'surrogate', _in_net(_array(b')'), '\ud800'), 'not a readable pickle'
  yield 'after_the_end', _in_net(_array(b')')) + b'N.', '2 bytes follow'
  yield 'no_array_yet', _in_net(b'cnumpy.core.multiarray\n_reconstruct\n)R'), 'type array, not an'
  yield 'no_truth', _in_net(_array(b')', b'C\1\7', _DTYPE.replace(b'f4', b'b1'))), 'neither 0 nor 1'
  whole = pickle.dumps({'net': {'w': np.arange(500.0)}})
  for length in (1, 2, 11, 30, 100, len(whole) // 2, len(whole) - 1):
    yield f'cut_{length}', whole[:length], 'cut off|beyond the end|neither'
  for protocol in (0, 1):
    yield f'protocol_{protocol}', pickle.dumps({'net': {'w': np.ones(2)}}, protocol), 'neither'
  for name, value, pattern in (
    ('nan', np.asarray([1, np.nan, np.inf]), "'net/w': 2 of 3 values are nan or infinite"),
    ('complex', np.ones(2, complex), "arrays of type 'c16'"),
    ('objects', np.asarray([None]), "arrays of type 'O8'"),
    ('float', 1.0, 'is of type float'),
    ('set', {1}, 'operation EMPTY_SET'),
  ):
    yield f'value_{name}', pickle.dumps({'net': {'w': value}}), pattern


_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (10,), }"


def _npy(header=_HEADER, data=bytes(40), version=b'\1\0', length=None):
  text = header.encode()
  width = '<H' if version == b'\1\0' else '<I'
  return b'\x93NUMPY' + version + struct.pack(width, length or len(text)) + text + data


def _zip(members, compression=zipfile.ZIP_STORED):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', compression) as archive, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of two members of one name
    for name, data in members:
      archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
  return buffer.getvalue()


def _npz(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _patch_directory(data, offset, value):
  """Overwrites a field of the first entry of the archive's list of members."""
  start = data.index(b'PK\1\2') + offset
  return data[:start] + value + data[start + len(value) :]


def hostile_archives():
  """Yields name, contents and a pattern of the message."""
  good = _zip([('net/w.npy', _npy())])
  headers = {
    'larger': (_HEADER.replace('10', '11'), '40 bytes for an array of shape'),
    'smaller': (_HEADER.replace('10', '9'), '40 bytes for an array of shape'),
    'huge': (_HEADER.replace('10', '10' * 9), '40 bytes for an array of shape'),
    'longest': (_HEADER.replace('10', '1' * 5000), 'a shape of'),
    'negative': (_HEADER.replace('10', '-1'), 'not that of a plain array'),
    'power': (_HEADER.replace('10', '9**9**9'), 'not that of a plain array'),
    'axes': (_HEADER.replace('10,', '1,' * 2000), 'a shape of'),
    'nested': (_HEADER.replace('(10,)', '(' * 4000 + ')' * 4000), 'not that of a plain array'),
    'signs': (_HEADER.replace('10', '-' * 9000 + '1'), 'not that of a plain array'),
    'call': (_HEADER.replace('10', "__import__('os').getpid()"), 'not that of a plain array'),
    'no_shape': ("{'descr': '<f4', 'fortran_order': False, }", 'not that of a plain array'),
    'text': ('hello', 'not that of a plain array'),
    'spaces': (_HEADER + ' ' * 9000 + 'x', 'not that of a plain array'),
    'objects': (_HEADER.replace('<f4', '|O'), "type '|O'; only real numbers"),
    'complex': (_HEADER.replace('<f4', '<c8'), "type '<c8'; only real numbers"),
    'strings': (_HEADER.replace('<f4', '<U1'), "type '<U1'; only real numbers"),
    'bfloat16': (_HEADER.replace('<f4', '|V2'), "type '|V2'; only real numbers"),
    'record': (_HEADER.replace("'<f4'", "[('a', '<f4')]"), 'not that of a plain array'),
  }
  for name, (header, pattern) in headers.items():
    pattern = pattern.replace('|', r'\|')
    yield f'header_{name}', _zip([('net/w.npy', _npy(header))]), f"member 'net/w': .*{pattern}"
  long = _npy(version=b'\2\0', length=2**32 - 1)
  yield 'header_long', _zip([('net/w.npy', long)]), 'a header of 4,294,967,295 bytes'
  empty = _npy(_HEADER.replace('(10,)', '(0, 1' + '0' * 17 + ')'), b'')
  yield 'header_empty', _zip([('net/w.npy', empty)]), 'an empty array of shape'
  yield (
    'not_finite',
    _npz(**{'net/w': np.asarray([np.nan, 1.0])}),
    '1 of 2 values are nan or infinite',
  )
  yield 'no_array', _zip([('net/w.npy', b'hello')]), 'does not begin as an array'
  yield 'text_member', _zip([('net/w.txt', b'hello')]), "member 'net/w.txt' is not an array"
  yield 'no_member', _zip([]), 'no parameters'
  yield 'only_metadata', _npz(__metadata__=np.asarray('{}')), 'no parameters'
  yield 'nested', _zip([('net/w.npz', good)]), 'is not an array'
  yield 'nested_array', _zip([('net/w.npy', good)]), 'does not begin as an array'
  for name in ('/net/w', '../net/w', 'net/../w', 'w', 'net//w', 'net/', 'n\ne/w', 'n' * 900 + '/w'):
    shown = name[:12].replace('/', '|')
    yield f'name_{shown!r}', _zip([(f'{name}.npy', _npy())]), 'not of the form|is not a name'
  yield 'twice', _zip([('net/w.npy', _npy())] * 2), "two members are called 'net/w'"
  yield 'encrypted', _patch_directory(good, 8, b'\1\0'), "member 'net/w' is encrypted"
  yield 'two_sizes', _patch_directory(good, 20, b'\7\0\0\0'), 'its two sizes differ'
  yield 'sum', _patch_directory(good, 16, b'\7\7\7\7'), 'Bad CRC'
  for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    data = _zip([('net/w.npy', _npy())], method)
    yield f'method_{method}', data, 'in a way that NumPy does not use'
  yield 'many', _zip([(f'net/{i}.npy', b'') for i in range(10_100)]), '10,100 arrays; at most'
  large = _npy(_HEADER.replace('10', str(2**24)), bytes(2**26))
  bomb = _zip([('net/w.npy', large)], zipfile.ZIP_DEFLATED)
  yield 'bomb', bomb, r'claims to hold 64\.0 MiB of arrays in a file of 0\.1 MiB'
  small = struct.pack('<I', len(_npy()))
  yield 'bomb_that_lies', _patch_directory(bomb, 24, small), 'Bad CRC'
  liar = _zip([('net/w.npy', _npy(data=bytes(2**26)))], zipfile.ZIP_DEFLATED)
  yield 'bomb_that_lies_twice', _patch_directory(liar, 24, small), 'Bad CRC'
  yield 'large_claim', _patch_directory(good, 20, b'\xfe\xff\xff\xff' * 2), 'larger than the file'
  yield 'zip64_claim', _patch_directory(good, 20, b'\xff' * 8), 'larger than|not a whole|damaged'
  # Central directory: its size, and where it begins.
  end = good.index(b'PK\5\6')
  for offset in (8, 10, 12, 16, 20):
    for value in (b'\xff' * 4, b'\xff\xff\xff\x7f', b'\0\0\0\0'):
      data = good[: end + offset] + value + good[end + offset + 4 :]
      yield f'end_{offset}_{value.hex()}', data[: len(good)], '.*'
  whole = _npz(**{'net/w': np.arange(500.0), 'net/b': np.ones(3)})
  for length in (3, 4, 30, 100, len(whole) // 2, len(whole) - 50, len(whole) - 1):
    yield f'cut_{length}', whole[:length], 'not a whole|neither'
  middle = len(whole) // 4
  flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
  yield 'flipped', flipped, 'Bad CRC'
  stream = zlib.compress(b'\0' * 1000)
  yield 'only_zlib', stream, 'neither a .npz nor a pickle'


def _torch(tensor, storages=(('0', bytes(40)),), **options):
  pickled = torch_files.program(torch_files.state_dict({'stem.conv.weight': tensor}))
  return torch_files.archive(pickled, dict(storages), **options)


def _safetensors(tensors, data=bytes(40), length=None):
  header = json.dumps(tensors).encode()
  return struct.pack('<Q', len(header) if length is None else length) + header + data


def hostile_timm_files():
  """Yields name, contents and a pattern of the message, of files of PyTorch and safetensors."""
  good = torch_files.tensor('0', 'FloatStorage', 10, (10,))
  yield (
    'other_names',
    _torch(good),
    'nearest is nf_resnet26, but missing in the file: .*wrong shape',
  )
  for name, shape, strides, offset in (
    ('far', (10,), (1,), 1),
    ('strides', (2, 2), (9, 1), 0),
    ('huge', (2**40, 2**40), (1, 1), 0),
    ('negative', (-1,), (1,), 0),
    ('empty', (0, 2**62), (1, 1), 0),
    ('before', (2,), (-1,), 5),
  ):
    tensor = torch_files.tensor('0', 'FloatStorage', 10, shape, strides=strides, offset=offset)
    yield f'shape_{name}', _torch(tensor), 'a tensor of (no possible )?shape'
  tensor = torch_files.tensor('0', 'FloatStorage', 10, (2**30, 10), strides=(0, 1))
  yield 'repeated', _torch(tensor), 'claims to hold 40,960.0 MiB'
  tensor = torch_files.tensor('0', 'FloatStorage', 2**40, (2**40,))
  yield 'long', _torch(tensor), 'claims to hold'
  yield (
    'longer',
    _torch(torch_files.tensor('0', 'FloatStorage', 11, (10,))),
    '40 bytes for an array',
  )
  yield 'missing', _torch(torch_files.tensor('../0', 'FloatStorage', 10, (10,))), 'is missing'
  yield 'complex', _torch(torch_files.tensor('0', 'ComplexFloatStorage', 5, (5,))), 'asks for'
  yield 'order', _torch(good, order=b'odd'), "byte order 'odd'"
  yield 'two_pickles', _torch(good, [('0', bytes(40)), ('x/data.pkl', b'')]), 'not a readable file'
  nothing = torch_files.archive(b'', {})
  yield 'no_pickle', nothing, 'cut off'
  root = torch_files.archive(torch_files.program(b']'), {})
  yield 'list', root, r'a saved list, not a dict of tensors; torch.save'
  leaf = torch_files.program(b'}' + _text('epoch') + b'K\1s')
  yield 'number', torch_files.archive(leaf, {}), "'epoch' is of type int, not a tensor"
  model = b'ctimm.models.nfnet\nNormFreeNet\n)\x81'
  yield 'model', torch_files.archive(torch_files.program(model), {}), "asks for 'timm.models.nfnet"
  for name, operations in (
    ('called', b'ctorch\nFloatStorage\n)R'),
    ('made', b'ctorch\nFloatStorage\n)\x81'),
    ('built', b'ctorch\nFloatStorage\n}b'),
    ('tensor', b'ctorch._utils\n_rebuild_tensor_v2\n(NK\0))tR'),
    ('reference', b'NQ'),
    ('reference_to_text', b'(' + _text('a') * 5 + b'tQ'),
  ):
    pattern = 'a call of|an object of|the state of|a tensor in|a reference to no|a storage of'
    yield name, torch_files.archive(torch_files.program(operations), {}), pattern
  arrays = {'stem.conv.weight': np.ones(500, np.float32)}
  for save in (torch_files.save, torch_files.save_legacy):
    whole = save(arrays)
    for length in (40, 200, len(whole) // 2, len(whole) - 1):
      pattern = 'neither|not a|cut off|beyond the end|missing|as long as'
      yield f'{save.__name__}_cut_{length}', whole[:length], pattern
  lengths = {'0': 2**60}
  tensor = torch_files.tensor('0', 'FloatStorage', 2**60, (1,), view=b'N')
  state = torch_files.state_dict({'stem.conv.weight': tensor})
  yield 'legacy_long', torch_files.legacy(state, {'0': b''}, lengths), 'cut off|as long as'
  one = {'dtype': 'F32', 'shape': [10], 'data_offsets': [0, 40]}
  yield 'safe_names', _safetensors({'stem.conv.weight': one}), 'nearest is nf_resnet26, but missing'
  for name, change in (
    ('far', {'data_offsets': [0, 44], 'shape': [11]}),
    ('shape', {'shape': [2**62, 2**62]}),
    ('dtype', {'dtype': 'X9'}),
  ):
    yield f'safe_{name}', _safetensors({'a': one | change}), 'not a whole .safetensors'
  yield 'safe_integers', _safetensors({'a': one | {'dtype': 'I32'}}), "'a' is of type 'I32'"
  whole = _safetensors({'a': one})
  yield 'safe_cut', whole[:-1], 'not a whole .safetensors'
  yield 'safe_cut_header.safetensors', whole[:20], 'cut off'
  yield 'safe_long.safetensors', _safetensors({}, length=2**63), 'cut off, or too long'
  scaled = _safetensors({'__metadata__': {'filter_scale': 'nan'}, 'a': one})
  yield 'safe_scale', scaled, 'nearest is nf_resnet26'
