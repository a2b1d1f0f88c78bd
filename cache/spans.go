package cache

import (
	"cmp"
	"slices"
)

// span is the bytes from off up to, not including, end.
type span struct{ off, end int64 }

// spans is a set of bytes: sorted spans that neither overlap nor touch.
type spans []span

// add puts the bytes of s into the set.
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

// endFrom tells up to where the bytes from off on are there without a gap. It
// is off itself when the byte at off is not there.
func (m spans) endFrom(off int64) int64 {
	i, _ := slices.BinarySearchFunc(m, off, func(have span, off int64) int { return cmp.Compare(have.end, off+1) })
	if i < len(m) && m[i].off <= off {
		return m[i].end
	}
	return off
}

// remove takes the bytes of s out of the set.
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
