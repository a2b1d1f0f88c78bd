package fill

import (
	"cmp"
	"slices"
)

// span is the bytes from off to end, exclusive.
type span struct{ off, end int64 }

// spans is a set of bytes: sorted spans that neither overlap nor touch.
type spans []span

// add adds the bytes of s.
func (m *spans) add(s span) {
	if s.off >= s.end {
		return
	}
	all := *m
	first, _ := slices.BinarySearchFunc(all, s.off, func(have span, off int64) int { return cmp.Compare(have.end, off) })
	last := first
	for last < len(all) && all[last].off <= s.end {
		s.off, s.end = min(s.off, all[last].off), max(s.end, all[last].end)
		last++
	}
	*m = slices.Replace(all, first, last, s)
}

// endFrom returns the end of the contiguous bytes from off on. It is off itself
// if the byte at off is not in the set.
func (m spans) endFrom(off int64) int64 {
	i, _ := slices.BinarySearchFunc(m, off, func(have span, off int64) int { return cmp.Compare(have.end, off+1) })
	if i < len(m) && m[i].off <= off {
		return m[i].end
	}
	return off
}

// remove removes the bytes of s.
func (m *spans) remove(s span) {
	var left spans
	for _, have := range *m {
		if have.end <= s.off || have.off >= s.end {
			left = append(left, have)
			continue
		}
		if have.off < s.off {
			left = append(left, span{have.off, s.off})
		}
		if have.end > s.end {
			left = append(left, span{s.end, have.end})
		}
	}
	*m = left
}

// bytes returns the number of bytes in the set.
func (m spans) bytes() (n int64) {
	for _, s := range m {
		n += s.end - s.off
	}
	return n
}

// missing returns the bytes below size that are not in the set.
func (m spans) missing(size int64) spans {
	var left spans
	left.add(span{0, size})
	for _, s := range m {
		left.remove(s)
	}
	return left
}

// from returns the first span with a byte at off or after it, cut to begin at
// off; if there is none, the first span of the set, which must not be empty.
func (m spans) from(off int64) span {
	for _, s := range m {
		if s.end > off {
			return span{max(s.off, off), s.end}
		}
	}
	return m[0]
}
