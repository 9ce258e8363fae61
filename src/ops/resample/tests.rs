//! Resampling, bit for bit: every kernel against the plain one, and known results.

use super::kernels::Kernels;
use super::*;

fn picture(width: usize, height: usize) -> Planes {
    let mut planes = Planes::default();
    planes.reshape(0..width, 0..height);
    for channel in 0..3 {
        for y in 0..height {
            let row = planes.row_mut(channel, y);
            row.fill(0xee); // slack must not matter
            for (x, sample) in row[..width].iter_mut().enumerate() {
                let noise = (x * 7919 + y * 104_729 + channel * 1_299_709) % 1009;
                // Extremes make filters with negative weights overshoot.
                *sample = [noise as u8, 0, 255][noise % 3];
            }
        }
    }
    planes
}

fn axis(kernels: Kernels, inputs: usize, outputs: usize, filter: Filter, window: Range<usize>) -> Axis {
    let mut axis = Axis::with(kernels);
    axis.set(inputs, outputs, filter, window);
    axis
}

fn resize(planes: &Planes, horizontal: &Axis, vertical: &Axis) -> Vec<u8> {
    let mut out = Vec::new();
    let emit = |_: usize, _: usize, row: &[u8]| out.extend_from_slice(row);
    Resampler::default().run(planes, (0, 0), horizontal, vertical, emit);
    out
}

/// Values that Pillow gives: `Image.fromarray(np.array([0, 10, 200, 255, 3, 90, 91], "u1")[None]).resize((4, 1), filter)`.
#[test]
fn small_rows_are_pillows() {
    let mut planes = Planes::default();
    planes.reshape(0..7, 0..1);
    planes.row_mut(0, 0)[..7].copy_from_slice(&[0, 10, 200, 255, 3, 90, 91]);
    for kernels in Kernels::available() {
        for (filter, expected) in PILLOW_ROWS {
            let h = axis(kernels, 7, 4, *filter, 0..4);
            let v = axis(kernels, 1, 1, *filter, 0..1);
            assert_eq!(resize(&planes, &h, &v)[..4], *expected, "{kernels:?} {filter:?}");
        }
    }
}

const PILLOW_ROWS: &[(Filter, [u8; 4])] = &[
    (Filter::Nearest, [0, 200, 3, 91]),
    (Filter::Lanczos, [0, 199, 98, 74]),
    (Filter::Bilinear, [14, 177, 91, 86]),
    (Filter::Bicubic, [0, 192, 94, 82]),
    (Filter::Box, [5, 228, 3, 91]),
    (Filter::Hamming, [5, 193, 71, 90]),
];

/// Width and height.
type Shape = (usize, usize);

/// Sizes that shrink a little, by more than a vector of samples per output, or grow; both orders of the passes.
const SIZES: &[(Shape, Shape)] = &[
    ((61, 47), (20, 30)),
    ((61, 47), (90, 100)),
    ((61, 47), (61, 9)),
    ((61, 47), (1, 1)),
    ((300, 5), (17, 5)),
    ((1500, 3), (40, 7)),
    ((2000, 2), (5, 2)),
    ((3000, 2), (2, 1)),
    ((40, 400), (37, 30)),
    ((130, 70), (128, 64)),
    ((1, 1), (33, 3)),
    ((200, 1), (199, 2)),
];

#[test]
fn all_kernels_give_the_same_bytes() {
    for &((width, height), (to_width, to_height)) in SIZES {
        let planes = picture(width, height);
        for filter in Filter::ALL {
            let with = |kernels| {
                let h = axis(kernels, width, to_width, filter, 0..to_width);
                let v = axis(kernels, height, to_height, filter, 0..to_height);
                resize(&planes, &h, &v)
            };
            let expected = with(Kernels::Scalar);
            for kernels in Kernels::available() {
                let what = format!("{kernels:?} {filter:?} {width} x {height} to {to_width} x {to_height}");
                assert!(with(kernels) == expected, "{what}");
            }
        }
    }
}

#[test]
fn a_window_is_a_part_of_the_whole() {
    for &((width, height), (to_width, to_height)) in SIZES {
        let planes = picture(width, height);
        let (columns, rows) = (
            to_width / 3..to_width - to_width / 4,
            to_height / 4..to_height - to_height / 3,
        );
        for filter in Filter::ALL {
            for kernels in Kernels::available() {
                let h = axis(kernels, width, to_width, filter, 0..to_width);
                let v = axis(kernels, height, to_height, filter, 0..to_height);
                let whole = resize(&planes, &h, &v);
                let h = axis(kernels, width, to_width, filter, columns.clone());
                let v = axis(kernels, height, to_height, filter, rows.clone());
                let mut expected = Vec::new();
                for channel in 0..3 {
                    for y in rows.clone() {
                        expected.extend_from_slice(&whole[(channel * to_height + y) * to_width..][columns.clone()]);
                    }
                }
                assert!(
                    resize(&planes, &h, &v) == expected,
                    "{kernels:?} {filter:?} {to_width} x {to_height}"
                );
            }
        }
    }
}
