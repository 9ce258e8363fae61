//! What becomes of a picture as `kernels/preprocess.cu` reads it.
//!
//! A job is 48 bytes a picture (`struct Job` there). A picture's tables, in units of 16 bytes: the spans of columns and of
//! rows, `[width + height][first, count]` u32, in groups of four inputs; weights of columns, `[groups][width]`, and of
//! rows, `[height][groups]`. The weights of a group of four inputs are 16 bytes: low halves of the four, high bytes of the
//! four, and four unused.
//! Inputs are counted from the crop's corner, or, where a picture begins within its crop, from that place, which lies a
//! whole number of groups further on.

use std::ops::Range;

use super::{Cut, Picture};
use crate::ops::jpeg::Rect;
use crate::ops::resample::{Axis, begins_vertically};

/// Words of a job.
pub const JOB: usize = 12;
/// Words in the unit of tables.
pub const UNIT: usize = 4;
/// Inputs of a group.
const GROUP: usize = 4;

/// What becomes of one picture, as numbers. Keeps its memory when it is set anew.
pub struct Plan {
    /// Height and width of the sample.
    size: (usize, usize),
    cut: Cut,
    across: Groups,
    down: Groups,
}

impl Plan {
    /// `size`: height and width of every sample; nothing is planned yet.
    pub fn new(size: (usize, usize)) -> Plan {
        assert!(size.0 > 0 && size.1 > 0, "an empty sample");
        Plan {
            size,
            cut: Cut::nothing(size),
            across: Groups::default(),
            down: Groups::default(),
        }
    }

    /// Panics if the crop is empty.
    pub fn set(&mut self, cut: Cut) {
        let (crop, (height, width)) = (cut.crop, self.size);
        assert!(crop.width > 0 && crop.height > 0, "an empty crop");
        self.cut = cut;
        let [across, down] = cut.parts();
        let columns = |axis: &mut Axis, window| axis.set_part(crop.width, across, cut.resized.0, cut.filter, window);
        self.across.set(columns, cut.columns(width), cut.offset.0, width);
        let rows = |axis: &mut Axis, window| axis.set_part(crop.height, down, cut.resized.1, cut.filter, window);
        self.down.set(rows, cut.rows(height), cut.offset.1, height);
    }

    /// Height and width of the sample.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// The part of the upright picture that is read; its corner is as far from the crop's as groups are whole.
    pub fn needed(&self) -> Rect {
        let crop = self.cut.crop;
        let (columns, rows) = (self.across.inputs(), self.down.inputs());
        Rect {
            x: crop.x + columns.start,
            y: crop.y + rows.start,
            width: columns.len(),
            height: rows.len(),
        }
    }

    /// Words of its tables, a whole number of units.
    pub fn words(&self) -> usize {
        let (height, width) = self.size;
        (2 * (width + height)).next_multiple_of(UNIT) + UNIT * (self.across.most * width + self.down.most * height)
    }

    /// Words of the tables of a picture that is a sample already.
    pub fn words_of_sample((height, width): (usize, usize)) -> usize {
        (2 * (width + height)).next_multiple_of(UNIT) + UNIT * (width + height)
    }

    /// The job of a picture whose tables begin `place` units behind the first one's.
    ///
    /// Panics if the picture does not contain what is needed of it.
    pub fn job(&self, picture: &Picture, place: usize) -> [u32; JOB] {
        let (crop, needed) = (self.cut.crop, self.needed());
        assert!(
            picture.x <= needed.x
                && picture.y <= needed.y
                && needed.right() <= picture.x + picture.width
                && needed.bottom() <= picture.y + picture.height,
            "{needed:?} of the crop {crop:?} is outside of its picture {picture:?}"
        );
        assert!(3 * picture.width * picture.height < 1 << 32, "a picture of 4 GB");
        let pitch = 3 * picture.width;
        // A crop that begins before its picture is read from the picture's corner on.
        let (x, y) = (crop.x.saturating_sub(picture.x), crop.y.saturating_sub(picture.y));
        let rows = crop.bottom().min(picture.y + picture.height) - crop.y.max(picture.y);
        let start = (picture.start + y * pitch + 3 * x) as u64;
        [
            start as u32,
            (start >> 32) as u32,
            place as u32,
            (place as u64 >> 32) as u32,
            pitch as u32,
            rows as u32,
            self.across.most as u32,
            self.down.most as u32,
            self.cut.flip as u32,
            begins_vertically((crop.width, self.cut.resized.0), (crop.height, self.cut.resized.1)) as u32,
            0, // what is erased, and by how many values: `ops::staging`
            0,
        ]
    }

    /// Writes the tables of a picture, all [`Plan::words`] of them.
    pub fn write(&self, picture: &Picture, tables: &mut [u32]) {
        assert_eq!(tables.len(), self.words(), "room for the tables");
        let crop = self.cut.crop;
        let shift = |picture: usize, crop: usize| {
            let skipped = picture.saturating_sub(crop);
            assert!(skipped.is_multiple_of(GROUP), "a picture that begins within a group");
            (skipped / GROUP) as u32
        };
        let (across, down) = (shift(picture.x, crop.x), shift(picture.y, crop.y));
        let spans = (self.across.spans.iter().map(|span| (span, across)))
            .chain(self.down.spans.iter().map(|span| (span, down)));
        let mut at = 0;
        for (&(first, count), shift) in spans {
            tables[at..at + 2].copy_from_slice(&[first - shift, count]);
            at += 2;
        }
        let end = at.next_multiple_of(UNIT);
        tables[at..end].fill(0);
        let mut units = tables[end..].as_chunks_mut::<UNIT>().0.iter_mut();
        let mut put = |weights: [u32; UNIT]| *units.next().expect("as many as were counted") = weights;
        for group in 0..self.across.most {
            (0..self.across.spans.len()).for_each(|output| put(self.across.weights(output, group)));
        }
        for output in 0..self.down.spans.len() {
            (0..self.down.most).for_each(|group| put(self.down.weights(output, group)));
        }
    }
}

impl Cut {
    /// Start and length of what is resized, among the crop's columns and among its rows.
    pub fn parts(&self) -> [(f64, f64); 2] {
        let Rect { width, height, .. } = self.crop;
        self.part.unwrap_or([(0.0, width as f64), (0.0, height as f64)])
    }

    /// The columns of the resized crop that a sample of this width shows.
    pub fn columns(&self, width: usize) -> Range<usize> {
        window(self.offset.0, width, self.resized.0)
    }

    pub fn rows(&self, height: usize) -> Range<usize> {
        window(self.offset.1, height, self.resized.1)
    }
}

fn window(offset: isize, wanted: usize, available: usize) -> Range<usize> {
    let end = (offset + wanted as isize).clamp(0, available as isize) as usize;
    (offset.max(0) as usize).min(end)..end
}

/// The weights of one direction, in groups of four inputs that start at multiples of four.
#[derive(Default)]
struct Groups {
    axis: Axis,
    /// Of the resized crop, those in the sample.
    window: Range<usize>,
    /// Where in the resized crop the sample starts.
    offset: isize,
    /// First group and number of groups of each row or column of the sample; firsts and ends never fall.
    spans: Vec<(u32, u32)>,
    /// Most groups of an output.
    most: usize,
}

impl Groups {
    /// `weigh` sets the axis for a window of its outputs.
    fn set(
        &mut self,
        weigh: impl FnOnce(&mut Axis, Range<usize>),
        window: Range<usize>,
        offset: isize,
        samples: usize,
    ) {
        (self.window, self.offset) = (window.clone(), offset);
        self.spans.clear();
        self.most = 0;
        if window.is_empty() {
            self.spans.resize(samples, (0, 0));
            return;
        }
        weigh(&mut self.axis, window.clone());
        let axis = &self.axis;
        let range = |output: usize| {
            let (first, weights) = axis.weights(output);
            let used = weights
                .iter()
                .rposition(|weight| *weight != 0)
                .map_or(0, |last| last + 1);
            (used > 0).then(|| (first / GROUP, (first + used).div_ceil(GROUP)))
        };
        // Padding takes the empty range before its successor or behind its predecessor; ends are raised and firsts lowered
        // where a weight that is 0 has shortened a neighbour.
        let mut end = window.clone().find_map(range).map_or(0, |(first, _)| first);
        for sample in 0..samples {
            let at = sample as isize + offset;
            let inside = usize::try_from(at).ok().filter(|at| window.contains(at));
            let (first, last) = inside.and_then(range).unwrap_or((end, end));
            end = end.max(last);
            self.spans.push((first as u32, end as u32));
        }
        let mut first = u32::MAX;
        for (begin, end) in self.spans.iter_mut().rev() {
            first = first.min(*begin);
            (*begin, *end) = (first, *end - first);
            self.most = self.most.max(*end as usize);
        }
    }

    /// The inputs that are needed, from a whole group on; one at least.
    fn inputs(&self) -> Range<usize> {
        if self.window.is_empty() {
            return 0..1;
        }
        let first = self.spans.first().map_or(0, |(first, _)| *first as usize * GROUP);
        first..self.axis.inputs().end
    }

    /// The four words of group `group` of an output's span.
    fn weights(&self, output: usize, group: usize) -> [u32; UNIT] {
        let (first_group, count) = self.spans[output];
        let mut words = [0; UNIT];
        let at = usize::try_from(output as isize + self.offset).ok();
        let Some(at) = at.filter(|at| group < count as usize && self.window.contains(at)) else {
            return words;
        };
        let (first, weights) = self.axis.weights(at);
        for lane in 0..GROUP {
            let input = (first_group as usize + group) * GROUP + lane;
            let weight = match input.checked_sub(first) {
                Some(at) if at < weights.len() => weights[at],
                _ => continue,
            };
            let high = weight >> 16;
            assert!(i8::try_from(high).is_ok(), "a weight of {weight} / 2^22");
            words[lane / 2] |= (weight as u32 & 0xffff) << (16 * (lane % 2));
            words[2] |= (high as u32 & 0xff) << (8 * lane);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, Rect};
    use super::*;

    /// Spans cover every weight, and their firsts and ends never fall, padding included.
    #[test]
    fn spans_are_in_order() {
        for filter in Filter::ALL {
            for (inputs, outputs, samples, offset) in [
                (512, 224, 224, 0),
                (1, 224, 224, 0),
                (37, 331, 224, 53),
                (3000, 7, 9, -1),
                (224, 224, 224, 0),
                (100, 50, 10, 60),
                (9, 5, 3, -3),
            ] {
                let cut = Cut {
                    crop: Rect::whole(inputs, 1),
                    part: None,
                    resized: (outputs, 1),
                    filter,
                    offset: (offset, 0),
                    flip: false,
                };
                let mut groups = Groups::default();
                let weigh = |axis: &mut Axis, window| axis.set(inputs, outputs, filter, window);
                groups.set(weigh, cut.columns(samples), offset, samples);
                let place = format!("{filter:?} {inputs} to {outputs}, {samples} from {offset}");
                let ends = |(first, count): (u32, u32)| (first as usize, (first + count) as usize);
                for pair in groups.spans.windows(2) {
                    let (a, b) = (ends(pair[0]), ends(pair[1]));
                    assert!(a.0 <= b.0 && a.1 <= b.1, "{place}: {a:?} {b:?}");
                }
                for output in 0..samples {
                    let at = usize::try_from(output as isize + offset).ok();
                    let (first, weights) = match at.filter(|at| cut.columns(samples).contains(at)) {
                        Some(at) => groups.axis.weights(at),
                        None => (0, &[][..]),
                    };
                    let used = weights.iter().rposition(|w| *w != 0).map_or(0, |last| last + 1);
                    let (start, end) = ends(groups.spans[output]);
                    assert!(
                        used == 0 || (start * 4 <= first && first + used <= end * 4),
                        "{place}: output {output}"
                    );
                    let sum: i64 = (0..groups.most)
                        .flat_map(|group| {
                            let [a, b, c, _] = groups.weights(output, group);
                            (0..4).map(move |lane| {
                                let low = [a, b][lane / 2] >> (16 * (lane % 2)) & 0xffff;
                                low as i64 + 65536 * (c >> (8 * lane)) as u8 as i8 as i64
                            })
                        })
                        .sum();
                    assert_eq!(
                        sum,
                        weights.iter().map(|w| *w as i64).sum::<i64>(),
                        "{place}: output {output}"
                    );
                }
            }
        }
    }
}
