package network

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// Range returns a header that asks for n bytes from off on, or for all the rest if n is
// negative; an empty one for the whole.
func Range(off, n int64) http.Header {
	switch {
	case n >= 0:
		return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+n-1)}}
	case off > 0:
		return http.Header{"Range": {fmt.Sprintf("bytes=%d-", off)}}
	default:
		return http.Header{}
	}
}

// ContentRange parses "bytes 100-199/1000" as 100, 200, 1000. The size is negative where
// the header does not state it, or is something else.
func ContentRange(header string) (first, end, size int64, ok bool) {
	rest, ok := strings.CutPrefix(header, "bytes ")
	span, whole, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil || first < 0 || last < first || last == math.MaxInt64 {
		return 0, 0, -1, false
	}
	if whole == "*" {
		return first, last + 1, -1, true
	}
	if size, err = strconv.ParseInt(whole, 10, 64); err != nil || last >= size {
		return 0, 0, -1, false
	}
	return first, last + 1, size, true
}
