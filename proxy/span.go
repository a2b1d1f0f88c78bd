package proxy

import (
	"strconv"
	"strings"
)

// span is what a Range header asks for: one range of bytes, or the whole.
type span struct {
	form  spanForm
	first int64 // of form from and fromTo
	last  int64 // of form fromTo, inclusive; of form suffix the length
}

type spanForm uint8

const (
	whole    spanForm = iota // no range, or one that is to be ignored
	fromTo                   // bytes=first-last
	from                     // bytes=first-
	suffix                   // bytes=-last
	unserved                 // a range that no blob can have
)

// blanks are the optional white space of HTTP (RFC 9110, 5.6.3).
const blanks = " \t"

// parseSpan parses a Range header (RFC 9110, 14.2). Other units and several
// ranges are ignored, which the RFC allows: the response is the whole blob. A
// malformed range of bytes cannot be satisfied (416).
func parseSpan(header string) span {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(strings.Trim(unit, blanks), "bytes") || strings.Contains(set, ",") {
		return span{}
	}
	first, last, ok := strings.Cut(strings.Trim(set, blanks), "-")
	if !ok {
		return span{form: unserved}
	}
	a, aOK := position(first)
	b, bOK := position(last)
	switch {
	case first == "" && bOK && b > 0:
		return span{form: suffix, last: b}
	case aOK && last == "":
		return span{form: from, first: a}
	case aOK && bOK && a <= b:
		return span{form: fromTo, first: a, last: b}
	default:
		return span{form: unserved}
	}
}

// position parses a byte position. A number above the largest int64 becomes the
// largest int64.
func position(s string) (int64, bool) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 1<<63 - 1, true
	}
	return int64(n), true
}

// of returns which n bytes from off the span means in a blob of size bytes.
// partial means status 206 instead of 200; ok is false for 416.
func (s span) of(size int64) (off, n int64, partial, ok bool) {
	switch {
	case s.form == whole:
		return 0, size, false, true
	case s.form == suffix && size > 0:
		n = min(s.last, size)
		return size - n, n, true, true
	case s.form == from && s.first < size:
		return s.first, size - s.first, true, true
	case s.form == fromTo && s.first < size:
		return s.first, min(s.last, size-1) - s.first + 1, true, true
	default:
		return 0, 0, false, false
	}
}

// begin returns the first byte of the span; 0 if that depends on the size.
func (s span) begin() int64 {
	if s.form == from || s.form == fromTo {
		return s.first
	}
	return 0
}
