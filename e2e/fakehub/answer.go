package fakehub

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// answer is the answer of a role; an exchange sends it.
type answer struct {
	status int
	header http.Header
	body   *source
	blob   bool // a Range is honoured, bandwidth is capped
}

// newAnswer makes an answer with a body of a media type.
func newAnswer(status int, mediaType string, body *source) *answer {
	return &answer{status: status, header: http.Header{"Content-Type": {mediaType}}, body: body}
}

// portal is the page of Fault.HTML.
const portal = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to use this network.</body></html>\n"

// replacement returns the answer that the fault gives in place of the real one;
// nil for none.
func (h *Hub) replacement(f *Fault, q *Request) *answer {
	switch {
	case f.Status != 0:
		a := &answer{status: f.Status, header: f.Header.Clone(), body: bytesSource(f.Body)}
		if a.header == nil {
			a.header = http.Header{}
		}
		return a
	case f.HTML:
		return newAnswer(http.StatusOK, "text/html; charset=utf-8", bytesSource([]byte(portal)))
	case f.ForeignRealm != "":
		return h.challenge(q.Repo, f.ForeignRealm, "")
	case f.Redirect != "":
		return redirect(f.Redirect)
	}
	return nil
}

// distort applies the parts of a fault that change headers and content.
func (h *Hub) distort(a *answer, f *Fault) {
	if location := a.header.Get("Location"); f.Hops > 0 && location != "" {
		a.header.Set("Location", h.hopURL(f.Hops, location))
	}
	if f.Status == 0 {
		for name, values := range f.Header {
			a.header[http.CanonicalHeaderKey(name)] = values
		}
		if f.Body != nil {
			a.body = bytesSource(f.Body)
		}
	}
	if f.Truncate != nil {
		a.body = a.body.first(*f.Truncate)
	}
	if f.DropDigestHeader {
		a.header.Del("Docker-Content-Digest")
	}
	if f.WrongDigestHeader != "" {
		a.header.Set("Docker-Content-Digest", f.WrongDigestHeader)
	}
	if f.DropContentType || a.header.Get("Content-Type") == "" {
		a.header["Content-Type"] = nil // keeps net/http from guessing one
	}
}

// span is the part of the body to send; end is exclusive.
type span struct{ start, end int64 }

// choose returns the span that a request wants, and turns the answer into a 206
// or a 416 where one is due.
func (a *answer) choose(r *http.Request, f *Fault) span {
	whole := span{0, a.body.size}
	header := r.Header.Get("Range")
	tag := r.Header.Get("If-Range")
	if !a.blob || a.status != http.StatusOK || header == "" || r.Method == http.MethodHead || f.IgnoreRange ||
		tag != "" && tag != a.header.Get("Etag") {
		return whole
	}
	s, valid := parseRange(header, a.body.size)
	if !valid {
		return whole
	}
	if s.start >= s.end {
		a.header.Set("Content-Range", fmt.Sprintf("bytes */%d", a.body.size))
		a.status, a.blob, a.body = http.StatusRequestedRangeNotSatisfiable, false, bytesSource(nil)
		return span{}
	}
	a.status = http.StatusPartialContent
	a.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", s.start, s.end-1, a.body.size))
	if f.WrongContentRange != "" {
		a.header.Set("Content-Range", f.WrongContentRange)
	}
	return s
}

// parseRange parses a Range header with one byte range; anything else is not
// valid, and is ignored. An empty span cannot be satisfied.
func parseRange(header string, size int64) (s span, valid bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash {
		return span{}, false
	}
	if first == "" {
		n, err := strconv.ParseUint(last, 10, 63)
		return span{max(0, size-int64(n)), size}, err == nil
	}
	start, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return span{}, false
	}
	s = span{int64(start), size}
	if last != "" {
		end, err := strconv.ParseUint(last, 10, 62)
		if err != nil || end < start {
			return span{}, false
		}
		s.end = min(size, int64(end)+1)
	}
	return s, true
}

// rangeOffset returns the first byte that a Range header requests, 0 if it does
// not say.
func rangeOffset(header string) int64 {
	first, _, _ := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	n, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return 0
	}
	return int64(n)
}
