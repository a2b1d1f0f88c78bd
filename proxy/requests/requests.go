// Package requests keeps the last requests of clients in memory, for the API. It
// knows neither HTTP nor what was answered; texts come from the request log.
package requests

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Size is how many requests are kept.
const Size = 2000

// maxText bounds the texts of one request that a client or a registry has sent,
// in bytes: a method of 16, a repository of 255 and a digest of 135, and an error.
const (
	maxText   = 640
	maxMethod = 16
	maxPath   = 256
)

// Request is a request that was answered.
type Request struct {
	ID         int64      `json:"id" doc:"Numbers the requests since the start"`
	At         time.Time  `json:"at"`
	Client     netip.Addr `json:"client"`
	Family     string     `json:"family" doc:"Kind of client: docker, containerd, buildkit, containers or other"`
	Method     string     `json:"method"`
	Kind       string     `json:"kind" doc:"manifest, blob, tags, referrers, ping or other"`
	Registry   string     `json:"registry,omitempty"`
	Repository string     `json:"repository,omitempty"`
	Tag        string     `json:"tag,omitempty"`
	Digest     string     `json:"digest,omitempty"`
	Path       string     `json:"path,omitempty" doc:"Where the request names no repository"`
	Status     int        `json:"status"`
	Result     string     `json:"result" doc:"What the answer was made from, as in hubcap_requests_total"`
	Bytes      int64      `json:"bytes" doc:"Of body, sent"`
	TookS      float64    `json:"took_s"`
	Error      string     `json:"error,omitempty"`
}

// Image returns the name of what was asked for.
func (r *Request) Image() string {
	name := r.Registry + "/" + r.Repository
	switch {
	case r.Repository == "":
		return r.Path
	case r.Tag != "":
		return name + ":" + r.Tag
	case r.Digest != "":
		return name + "@" + r.Digest
	}
	return name
}

// Log keeps the last requests. Its methods are safe for concurrent use.
type Log struct {
	last  atomic.Int64 // id of the last request
	slots [Size]slot
}

// slot is the place of every Size-th request. Its texts lie in one array, so that
// nothing is allocated and no client's request is kept in memory.
type slot struct {
	mu   sync.Mutex // practically never waited for: the slot is next used Size requests later
	r    Request    // without texts
	ends [texts]uint16
	text [maxText]byte
}

const texts = 6

func (r *Request) texts() [texts]*string {
	return [texts]*string{&r.Method, &r.Repository, &r.Tag, &r.Digest, &r.Path, &r.Error}
}

// Add keeps a copy of a request, with an ID of its own. It allocates nothing. A
// nil Log keeps none.
func (l *Log) Add(r *Request) {
	if l == nil {
		return
	}
	id := l.last.Add(1)
	s := &l.slots[id%Size]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r.ID > id {
		return
	}
	s.r = *r
	s.r.ID, s.r.Method, s.r.Path = id, clip(r.Method, maxMethod), clip(r.Path, maxPath)
	n := 0
	for i, text := range s.r.texts() {
		n += copy(s.text[n:], *text)
		s.ends[i] = uint16(n) //nolint:gosec // at most maxText
		*text = ""
	}
}

func clip(text string, n int) string { return text[:min(len(text), n)] }

// get returns the request of an id; ok is false if it is not kept any more.
func (l *Log) get(id int64) (r Request, ok bool) {
	s := &l.slots[id%Size]
	s.mu.Lock()
	defer s.mu.Unlock()
	r = s.r
	begin := uint16(0)
	for i, text := range r.texts() {
		*text = strings.ToValidUTF8(string(s.text[begin:s.ends[i]]), "\uFFFD")
		begin = s.ends[i]
	}
	return r, r.ID == id
}

// Filter chooses requests. Its zero value chooses all.
type Filter struct {
	Client netip.Prefix // invalid for any
	Result string       // empty for any
	Image  string       // part of the image's name
}

func (f *Filter) takes(r *Request) bool {
	return (!f.Client.IsValid() || f.Client.Contains(r.Client)) &&
		(f.Result == "" || f.Result == r.Result) && strings.Contains(r.Image(), f.Image)
}

// After returns the first n requests that a filter takes and whose id is above
// after, in order. A negative after stands for the last n of them.
func (l *Log) After(after int64, n int, f Filter) []Request {
	last := l.last.Load()
	found := []Request{}
	for id := max(after+1, last-Size+1, 1); id <= last && (after < 0 || len(found) < n); id++ {
		if r, ok := l.get(id); ok && f.takes(&r) {
			found = append(found, r)
		}
	}
	return found[max(0, len(found)-n):]
}
