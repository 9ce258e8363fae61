//! Where the columns of an Arrow schema have their buffers in a record batch, and how labels lie in them.
//!
//! A batch lists the buffers of all columns one after the other, children after their parents. Source: the Arrow columnar
//! format, "Buffer listing for each layout".

use std::ops::Range;

use arrow::datatypes::{DataType, Field, Schema, UnionMode};

use super::shard::Labels;

/// A column, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub name: String,
    pub data_type: DataType,
    /// Number of its node in a batch.
    pub node: usize,
    /// Number of its first buffer in a batch.
    pub buffer: usize,
    pub children: Vec<Place>,
}

/// The buffers of a column, read.
pub(super) struct Buffers {
    /// Bits, the lowest first; `None` when nothing is null.
    pub validity: Option<Vec<u8>>,
    /// Values, or offsets.
    pub first: Vec<u8>,
    /// Texts or bytes.
    pub second: Vec<u8>,
}

impl Place {
    /// How many buffers it has itself.
    pub fn buffers(&self) -> usize {
        buffers_of(&self.data_type).unwrap_or(0)
    }
}

/// The places of all top-level columns.
pub(super) fn locate(schema: &Schema) -> Result<Vec<Place>, String> {
    let (mut node, mut buffer) = (0, 0);
    schema
        .fields()
        .iter()
        .map(|field| place(field, &mut node, &mut buffer))
        .collect()
}

fn place(field: &Field, node: &mut usize, buffer: &mut usize) -> Result<Place, String> {
    let own = buffers_of(field.data_type()).ok_or_else(|| {
        format!(
            "column `{}` has a type that is not read: {}",
            field.name(),
            field.data_type()
        )
    })?;
    let mut place_of = Place {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        node: *node,
        buffer: *buffer,
        children: Vec::new(),
    };
    *node += 1;
    *buffer += own;
    let children: Vec<&Field> = match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(AsRef::as_ref).collect(),
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => vec![child],
        DataType::ListView(child) | DataType::LargeListView(child) | DataType::Map(child, _) => vec![child],
        DataType::Union(fields, _) => fields.iter().map(|(_, child)| child.as_ref()).collect(),
        DataType::RunEndEncoded(ends, values) => vec![ends, values],
        _ => Vec::new(),
    };
    for child in children {
        place_of.children.push(place(child, node, buffer)?);
    }
    Ok(place_of)
}

/// `None` for a type whose number of buffers differs from batch to batch.
fn buffers_of(data_type: &DataType) -> Option<usize> {
    use DataType::*;
    Some(match data_type {
        Null | RunEndEncoded(..) => 0,
        Struct(_) | FixedSizeList(..) | Union(_, UnionMode::Sparse) => 1,
        Union(_, UnionMode::Dense) | List(_) | LargeList(_) | Map(..) => 2,
        Utf8 | LargeUtf8 | Binary | LargeBinary | ListView(_) | LargeListView(_) => 3,
        Utf8View | BinaryView => return None,
        _ => 2,
    })
}

impl Buffers {
    /// The labels of some rows of a column of integers, booleans or texts.
    pub fn labels(&self, data_type: &DataType, rows: Range<usize>) -> Result<Labels, String> {
        use DataType::*;
        let too_short = || "the buffer is too short".to_owned();
        let valid = |row: usize| match &self.validity {
            Some(bits) => bits
                .get(row / 8)
                .map(|byte| byte >> (row % 8) & 1 == 1)
                .ok_or_else(too_short),
            None => Ok(true),
        };
        let raw = |width: usize, row: usize| self.first.get(row * width..(row + 1) * width).ok_or_else(too_short);
        macro_rules! numbers {
            ($integer:ty) => {{
                let width = size_of::<$integer>();
                let value = |row: usize| {
                    let bytes = raw(width, row)?;
                    let value = <$integer>::from_le_bytes(bytes.try_into().expect("as many bytes as it has"));
                    // Beyond i64 no class has its number: any value out of range will do.
                    Ok(valid(row)?.then(|| i64::try_from(value).unwrap_or(i64::MAX)))
                };
                Ok(Labels::Numbers(rows.map(value).collect::<Result<_, String>>()?))
            }};
        }
        match data_type {
            Int8 => numbers!(i8),
            Int16 => numbers!(i16),
            Int32 => numbers!(i32),
            Int64 => numbers!(i64),
            UInt8 => numbers!(u8),
            UInt16 => numbers!(u16),
            UInt32 => numbers!(u32),
            UInt64 => numbers!(u64),
            Boolean => {
                let value = |row: usize| {
                    let byte = self.first.get(row / 8).ok_or_else(too_short)?;
                    Ok(valid(row)?.then_some((byte >> (row % 8) & 1) as i64))
                };
                Ok(Labels::Numbers(rows.map(value).collect::<Result<_, String>>()?))
            }
            Utf8 | LargeUtf8 => {
                let offset = |row: usize| {
                    Ok::<usize, String>(match data_type {
                        LargeUtf8 => u64::from_le_bytes(raw(8, row)?.try_into().expect("8 bytes")) as usize,
                        _ => u32::from_le_bytes(raw(4, row)?.try_into().expect("4 bytes")) as usize,
                    })
                };
                let value = |row: usize| {
                    if !valid(row)? {
                        return Ok(None);
                    }
                    let bytes = self.second.get(offset(row)?..offset(row + 1)?).ok_or_else(too_short)?;
                    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
                };
                Ok(Labels::Names(rows.map(value).collect::<Result<_, String>>()?))
            }
            other => Err(format!("labels of type {other} are not read")),
        }
    }
}
