//! Writes protobuf: the parts that rows are made of, without a value in between.

use prost::encoding::{encode_varint, encoded_len_varint};

/// A field that holds bytes, text or a message.
const LENGTH_DELIMITED: u32 = 2;

/// The key of a field with a length. All numbers here are below 16: it takes one byte.
pub(super) const fn key(number: u32) -> u8 {
    ((number << 3) | LENGTH_DELIMITED) as u8
}

/// The bytes that a field with this length takes.
pub(super) fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// Writes the key and the length of a field.
pub(super) fn begin(out: &mut Vec<u8>, number: u32, len: usize) {
    out.push(key(number));
    encode_varint(len as u64, out);
}

/// Writes a field of bytes.
pub(super) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    begin(out, number, value.len());
    out.extend_from_slice(value);
}

/// The bytes that a number takes.
pub(super) fn number_len(value: u64) -> usize {
    1 + encoded_len_varint(value)
}

/// Writes a field with a number.
pub(super) fn number(out: &mut Vec<u8>, number: u32, value: u64) {
    out.push((number << 3) as u8);
    encode_varint(value, out);
}
