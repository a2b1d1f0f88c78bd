package site

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// ErrSelf says that a box has asked itself: the list has it under two names.
var ErrSelf = errors.New("this request comes from this box itself: HUBCAP_SITE has it under two names, or HUBCAP_SITE_SELF is wrong")

// viaPrefix is how the Via of a box begins (RFC 9110, 7.6.3). What follows is the
// box's own.
const viaPrefix = "1.1 hubcap-"

// Via is what this box says of itself, in requests to others and in answers to them: who
// it is, and which list of boxes it has.
func (s *Site) Via() string {
	if s == nil {
		return ""
	}
	return "1.1 " + s.id + " (site " + s.list + ")"
}

// listOf identifies a list of boxes, whatever their order.
func listOf(boxes []*url.URL) string {
	names := make([]string, len(boxes))
	for i, u := range boxes {
		names[i] = u.String()
	}
	slices.Sort(names)
	return strconv.FormatUint(xxhash.Sum64String(strings.Join(names, " ")), 36)
}

// saidOf returns what an answer says of the box that gave it, empty if nothing.
func saidOf(h http.Header) (id, list string) {
	for _, line := range h.Values("Via") {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "1.1 ")
		if !ok || !strings.HasPrefix(rest, "hubcap-") {
			continue
		}
		id, comment, _ := strings.Cut(rest, " ")
		list, _ := strings.CutPrefix(strings.Trim(comment, "()"), "site ")
		return id, list
	}
	return "", ""
}

// FromBox reports whether a request comes from another box, as it says. Whoever says
// so gets no more than any other client, but less. The error is ErrSelf.
func (s *Site) FromBox(h http.Header) (bool, error) {
	from := false
	for _, line := range h.Values("Via") {
		for one := range strings.SplitSeq(line, ",") {
			one = strings.TrimSpace(one)
			said, _, _ := strings.Cut(strings.TrimPrefix(one, "1.1 "), " ")
			if s != nil && said == s.id {
				return true, ErrSelf
			}
			from = from || strings.HasPrefix(one, viaPrefix)
		}
	}
	return from, nil
}

// Has reports whether another box has this address, as far as names could be looked
// up lately.
func (s *Site) Has(address netip.Addr) bool {
	if s == nil {
		return false
	}
	known := s.addresses.Load()
	return known != nil && (*known)[address]
}
