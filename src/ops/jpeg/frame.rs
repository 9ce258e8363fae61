//! The header of a plain JPEG file: baseline Huffman coding, gray or YCbCr, all components in one scan.
//!
//! Source: ITU-T T.81, annex B; which colours a file means is libjpeg's rule. Everything unusual is declined (None), so
//! nothing here needs an error message.

/// Most components of a plain file.
pub(super) const MOST_COMPONENTS: usize = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Component {
    id: u8,
    quantization: usize,
    pub dc_table: usize,
    pub ac_table: usize,
}

/// How many luma samples share one chroma sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    Gray,
    Full,
    HalfWidth,
    HalfWidthAndHeight,
}

impl Sampling {
    /// Blocks of luma in an MCU, across and down.
    pub fn luma_blocks(self) -> (usize, usize) {
        match self {
            Sampling::Gray | Sampling::Full => (1, 1),
            Sampling::HalfWidth => (2, 1),
            Sampling::HalfWidthAndHeight => (2, 2),
        }
    }

    pub fn components(self) -> usize {
        match self {
            Sampling::Gray => 1,
            _ => MOST_COMPONENTS,
        }
    }
}

#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub width: usize,
    pub height: usize,
    pub sampling: Sampling,
    pub components: [Component; MOST_COMPONENTS],
    /// In zigzag order.
    quantization: [Option<[u16; 64]>; 4],
    /// As in the file: 16 counts of codes per length, then the symbols; first the DC tables, then the AC tables.
    pub huffman: [[Option<&'a [u8]>; 4]; 2],
    /// MCUs between restart markers; 0: there are none.
    pub restart_interval: usize,
    /// What follows the scan's header.
    pub scan: &'a [u8],
}

impl<'a> Frame<'a> {
    pub fn read(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let mut frame = Frame {
            width: 0,
            height: 0,
            sampling: Sampling::Gray,
            components: Default::default(),
            quantization: [None; 4],
            huffman: [[None; 4]; 2],
            restart_interval: 0,
            scan: &[],
        };
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        let (mut components, mut jfif, mut adobe) = (0, false, None);
        loop {
            let [0xff, marker, high, low, ..] = *rest else {
                return None;
            };
            let length = u16::from_be_bytes([high, low]) as usize;
            let body = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                0xe0 => jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
                0xee if body.len() >= 12 && body.starts_with(b"Adobe") => adobe = Some(body[11]),
                0xe1..=0xef | 0xfe => {}
                0xdb => frame.read_quantization(body)?,
                0xc4 => frame.read_huffman(body)?,
                0xdd => frame.restart_interval = u16::from_be_bytes(body.try_into().ok()?) as usize,
                0xc0 | 0xc1 if components == 0 => components = frame.read_size(body)?,
                0xda if components > 0 => {
                    frame.read_scan(body, components)?;
                    break;
                }
                _ => return None,
            }
        }
        let ids = [0, 1, 2].map(|c: usize| frame.components[c].id);
        let ycbcr = jfif || adobe.map_or(ids == [1, 2, 3], |transform| transform == 1);
        if components == MOST_COMPONENTS && !ycbcr {
            return None;
        }
        frame.scan = rest;
        Some(frame)
    }

    /// Of the component, in zigzag order.
    pub fn quantization(&self, component: usize) -> Option<&[u16; 64]> {
        self.quantization[self.components[component].quantization].as_ref()
    }

    fn read_quantization(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&kind, values)) = body.split_first() {
            let (wide, slot) = (kind >> 4, (kind & 15) as usize);
            let bytes = match wide {
                0 => 64,
                1 => 128,
                _ => return None,
            };
            let values = values.get(..bytes)?;
            let table = std::array::from_fn(|k| match wide {
                0 => values[k] as u16,
                _ => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
            });
            *self.quantization.get_mut(slot)? = Some(table);
            body = &body[1 + bytes..];
        }
        Some(())
    }

    fn read_huffman(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&kind, table)) = body.split_first() {
            let symbols: usize = table.get(..16)?.iter().map(|count| *count as usize).sum();
            let table = table.get(..16 + symbols)?;
            *self
                .huffman
                .get_mut((kind >> 4) as usize)?
                .get_mut((kind & 15) as usize)? = Some(table);
            body = &body[1 + table.len()..];
        }
        Some(())
    }

    /// Gives the number of components.
    fn read_size(&mut self, body: &[u8]) -> Option<usize> {
        let [8, h1, h0, w1, w0, components, ..] = *body else {
            return None;
        };
        self.height = u16::from_be_bytes([h1, h0]) as usize;
        self.width = u16::from_be_bytes([w1, w0]) as usize;
        let components = components as usize;
        if body.len() != 6 + 3 * components || self.width == 0 || self.height == 0 {
            return None;
        }
        let mut factors = [0; MOST_COMPONENTS];
        for (at, component) in body[6..].chunks_exact(3).enumerate() {
            let place = self.components.get_mut(at)?;
            place.id = component[0];
            place.quantization = component[2] as usize;
            if place.quantization >= self.quantization.len() {
                return None;
            }
            factors[at] = component[1];
        }
        self.sampling = match factors[..components] {
            [0x11] => Sampling::Gray,
            [0x11, 0x11, 0x11] => Sampling::Full,
            [0x21, 0x11, 0x11] => Sampling::HalfWidth,
            [0x22, 0x11, 0x11] => Sampling::HalfWidthAndHeight,
            _ => return None,
        };
        Some(components)
    }

    fn read_scan(&mut self, body: &[u8], components: usize) -> Option<()> {
        let (&count, body) = body.split_first()?;
        if count as usize != components || body.len() != 2 * components + 3 || body[2 * components..] != [0, 63, 0] {
            return None;
        }
        for (component, spec) in self.components.iter_mut().zip(body[..2 * components].chunks_exact(2)) {
            (component.dc_table, component.ac_table) = ((spec[1] >> 4) as usize, (spec[1] & 15) as usize);
            if component.id != spec[0] || component.dc_table > 3 || component.ac_table > 3 {
                return None;
            }
        }
        Some(())
    }
}
