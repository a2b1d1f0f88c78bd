package upstream

import (
	"net/http"
	"net/url"
	"sync"

	"hubcap/metrics"
)

// maxSources is how many sources of one upstream are remembered: its anonymous
// ones and its accounts.
const maxSources = 16

// spending finds pulls that count against a limit of this box and that the box
// did not make: of somebody behind the same address or with the same account.
// It is shared by the clients of one upstream.
//
// Let truth be the number of pulls left plus the number that this box has made.
// Foreign pulls make it smaller; the window, which gives pulls back, makes it
// larger. It is known only roughly while own pulls are under way, since the
// registry may or may not have counted them when it wrote an answer: it is at
// least remaining + the own pulls answered before the request was sent, and at
// most remaining + the own pulls sent before the answer came. A foreign pull is
// reported when the upper bound falls below an earlier lower bound. So own pulls
// are never reported, and foreign ones are missed where the window gives back
// as many. Its methods are safe for concurrent use.
type spending struct {
	mu      sync.Mutex
	sending int       // own pulls without an answer
	changes int       // counts the changes of any level
	sources []*source // the one stated last is the last
}

// source is an address or account whose pulls a registry counts
// (Docker-RateLimit-Source).
type source struct {
	name  string
	limit string // stated with the level
	pulls int    // made by this box, and answered with 200
	level int    // what truth was at least, or what it had fallen to
	since int    // spending.changes when level was set: requests sent earlier say nothing about what came after
}

// sent is a request to the registry that has been sent.
type sent struct {
	pull  bool
	at    int             // spending.changes
	pulls map[*source]int // source.pulls
}

// begin notes that a request is sent.
func (s *spending) begin(pull bool) sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pull {
		s.sending++
	}
	r := sent{pull: pull, at: s.changes, pulls: make(map[*source]int, len(s.sources))}
	for _, one := range s.sources {
		r.pulls[one] = one.pulls
	}
	return r
}

// end notes the answer to a request; nil for none. Each request that has begun
// ends once. It returns how many foreign pulls the answer shows, and whether
// the answer states a source and how many pulls it has left. With create, a
// source that is not known is remembered.
func (s *spending) end(r sent, resp *http.Response, create bool) (foreign int, stated bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var name string
	if resp != nil {
		name = printable(resp.Header.Get("Docker-RateLimit-Source"))
		name = name[:min(len(name), maxMessage)]
	}
	from := s.source(name, create)
	if from != nil {
		if left, _, ok := pulls(resp.Header.Get("RateLimit-Remaining")); ok {
			foreign, stated = s.observe(from, r, left, resp.Header.Get("RateLimit-Limit")), true
		}
	}
	if !r.pull {
		return foreign, stated
	}
	s.sending--
	switch {
	case resp != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusTooManyRequests):
	case from != nil:
		s.settle(from, resp.StatusCode == http.StatusOK)
	case name == "": // it may have been any
		for _, one := range s.sources {
			s.settle(one, false)
		}
	}
	return foreign, stated
}

// source returns the source of a name and makes it the last; nil without a name
// and for one that is unknown and not created.
func (s *spending) source(name string, create bool) *source {
	if name == "" {
		return nil
	}
	for i, one := range s.sources {
		if one.name == name {
			s.sources = append(append(s.sources[:i:i], s.sources[i+1:]...), one)
			return one
		}
	}
	if !create {
		return nil
	}
	if len(s.sources) == maxSources {
		s.sources = s.sources[1:]
	}
	one := &source{name: name, since: -1}
	s.sources = append(s.sources, one)
	return one
}

// observe takes how many pulls an answer states to be left, and returns how many
// foreign ones that shows.
func (s *spending) observe(from *source, r sent, left int, limit string) (foreign int) {
	if from.since >= 0 && r.at < from.since {
		return 0
	}
	least, most := left+r.pulls[from], left+from.pulls+s.sending
	switch {
	case from.since < 0 || limit != from.limit || least > from.level: // the first, another limit, or the window gave pulls back
		from.level = least
	case most < from.level:
		foreign = from.level - most
		from.level = most
	default:
		return 0
	}
	from.limit = limit
	s.changed(from)
	return foreign
}

func (s *spending) changed(from *source) {
	s.changes++
	from.since = s.changes
}

// settle notes an own pull that has been answered. If the registry may not have
// counted it, truth may be one less without a foreign pull.
func (s *spending) settle(from *source, counted bool) {
	if counted {
		from.pulls++
		return
	}
	from.level--
	s.changed(from)
}

// spender has each request to the registry counted by a spending.
type spender struct {
	base     http.RoundTripper
	registry *url.URL
	spending *spending
	budget   *budget
	metrics  *metrics.Upstream
	client   bool // asks with the tokens of clients, whose pulls elsewhere are their own affair
}

// RoundTrip implements http.RoundTripper.
func (s *spender) RoundTrip(req *http.Request) (*http.Response, error) {
	if !sameOrigin(req.URL, s.registry) {
		return s.base.RoundTrip(req)
	}
	r := s.spending.begin(isPull(req))
	resp, err := s.base.RoundTrip(req)
	if n, stated := s.spending.end(r, resp, !s.client); stated && !s.client {
		s.metrics.Foreign(n)
		s.budget.addForeign(n)
	}
	return resp, err
}
