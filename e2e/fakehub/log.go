package fakehub

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Role is a part that the hub plays.
type Role string

// The three roles.
const (
	RoleRegistry Role = "registry"
	RoleToken    Role = "token"
	RoleCDN      Role = "cdn"
)

// Kind is what is requested.
type Kind string

// The kinds of requests. KindBlob is a blob at the registry, KindCDN the same
// blob at the CDN.
const (
	KindPing      Kind = "ping"
	KindManifest  Kind = "manifest"
	KindBlob      Kind = "blob"
	KindTags      Kind = "tags"
	KindReferrers Kind = "referrers"
	KindToken     Kind = "token"
	KindCDN       Kind = "cdn"
	KindOther     Kind = "other"
)

// Request is one request as the log knows it.
type Request struct {
	Seq           int // from 1, in order of arrival
	Conn          int // number of the TCP connection, from 1
	Role          Role
	Kind          Kind
	Proto         string // HTTP/1.1 or HTTP/2.0
	Method        string
	Host          string
	Path          string
	Query         string // raw, without the question mark
	Repo          string // empty at the CDN, whose URLs do not name one
	Reference     string // tag or digest
	Range         string // header
	Offset        int64  // first byte that Range requests; 0 without, or for a suffix
	UserAgent     string
	Authorization string
	Header        http.Header // of the request; not to be changed
	RemoteAddr    string
	Time          time.Time // of arrival
	Status        int       // 0 until headers are sent, and when none ever are
	Sent          int64     // body bytes handed to the connection so far
	Done          bool      // the handler has ended
}

// entry is a request in the log.
type entry struct {
	log *requestLog
	req Request
}

// requestLog remembers all requests. One mutex guards all entries.
type requestLog struct {
	mu      sync.Mutex
	seq     int
	entries []*entry
}

// add appends a request and returns its entry.
func (l *requestLog) add(r Request) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	r.Seq = l.seq
	e := &entry{log: l, req: r}
	l.entries = append(l.entries, e)
	return e
}

// update changes an entry under the log's lock.
func (e *entry) update(change func(*Request)) {
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	change(&e.req)
}

// snapshot returns a copy of the entry.
func (e *entry) snapshot() Request {
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	return e.req
}

// Log returns all requests since the start or the last Reset, in order of
// arrival. The log has no bound. A request is in it before the first byte of
// its answer is sent; Status and Sent change while it is answered, and Sent
// counts what is about to be written, so that a client which has read its
// answer finds all of it counted.
func (h *Hub) Log() []Request {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	log := make([]Request, len(h.log.entries))
	for i, e := range h.log.entries {
		log[i] = e.req
	}
	return log
}

// Count returns how many requests in the log pass all filters.
func (h *Hub) Count(filters ...Filter) int {
	n := 0
	all := All(filters...)
	for _, r := range h.Log() {
		if all(&r) {
			n++
		}
	}
	return n
}

// BytesSent returns the bytes of content that all requests for a digest were sent,
// manifests and blobs, at the registry and the CDN. The texts of refusals are none:
// a client whose first request is for a blob is told by one where its token is.
func (h *Hub) BytesSent(d digest.Digest) int64 {
	var n int64
	for _, r := range h.Log() {
		if r.Reference == d.String() && r.Status < http.StatusMultipleChoices {
			n += r.Sent
		}
	}
	return n
}

// AuthorizationLeaks returns how many requests sent an Authorization header to
// the CDN, which no client should do.
func (h *Hub) AuthorizationLeaks() int {
	return h.Count(OfRole(RoleCDN), func(r *Request) bool { return r.Authorization != "" })
}

// Reset empties the log. Requests that are being answered are not in it any
// more.
func (h *Hub) Reset() {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	h.log.entries = nil
}

// Filter selects requests.
type Filter func(*Request) bool

// All passes what every filter passes; without filters, everything.
func All(filters ...Filter) Filter {
	return func(r *Request) bool {
		return !slices.ContainsFunc(filters, func(f Filter) bool { return !f(r) })
	}
}

// Not passes what the filter does not.
func Not(f Filter) Filter { return func(r *Request) bool { return !f(r) } }

// OfKind passes requests of the kinds.
func OfKind(kinds ...Kind) Filter {
	return func(r *Request) bool { return slices.Contains(kinds, r.Kind) }
}

// OfRole passes requests to the roles.
func OfRole(roles ...Role) Filter {
	return func(r *Request) bool { return slices.Contains(roles, r.Role) }
}

// OfMethod passes requests with the methods.
func OfMethod(methods ...string) Filter {
	return func(r *Request) bool { return slices.Contains(methods, r.Method) }
}

// OfRepo passes requests for a repository.
func OfRepo(name string) Filter { return func(r *Request) bool { return r.Repo == name } }

// OfReference passes requests for a tag or a digest.
func OfReference[T ~string](reference T) Filter {
	return func(r *Request) bool { return r.Reference == string(reference) }
}

// OfStatus passes requests answered with one of the statuses; of use with
// Count, as a script is asked before there is a status.
func OfStatus(statuses ...int) Filter {
	return func(r *Request) bool { return slices.Contains(statuses, r.Status) }
}
