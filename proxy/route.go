package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/pull"
	"hubcap/proxy/upstream"
)

// route is a parsed request. parseRoute is the only code that reads the URL and
// Range; every field of its result is valid by its grammar.
type route struct {
	kind     kind
	live     bool // /livez
	ready    bool // /readyz
	setup    bool // /setup
	upstream *upstream.Upstream
	unknown  string        // a registry that was asked for and is not configured
	ns       string        // the ns parameter as the client gave it
	path     string        // as the client gave it, for links back
	named    bool          // the path names the registry as the first part of the repository's name
	name     string        // of the repository, as its registry knows it
	tag      string        // of a manifest asked for by tag
	digest   digest.Digest // of a manifest or blob asked for by digest, or of a referrers' subject
	query    url.Values    // of tags and referrers, without ns
	span     span          // of a blob
	peer     bool          // another box asks, as it says
}

// reference is the manifest or blob that is asked for.
func (rt route) reference() pull.Reference {
	return pull.Reference{Tag: rt.tag, Digest: rt.digest, Blob: rt.kind == kindBlob}
}

// registries finds a registry by its name.
type registries interface {
	Find(name string) (*upstream.Upstream, bool)
}

// parseRoute parses a request. def is the registry for requests that name none.
// The error is an apiError; no upstream and no file has been used.
func parseRoute(r *http.Request, known registries, def *upstream.Upstream) (rt route, err error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return rt, errMethod
	}
	path := r.URL.EscapedPath()
	rt.path = path
	switch path {
	case "/livez":
		rt.live = true
		return rt, nil
	case "/readyz":
		rt.ready = true
		return rt, nil
	}
	if r.URL.Host != "" || !strings.HasPrefix(path, "/") {
		return rt, errAbsolute
	}
	if path == "/setup" {
		rt.setup = true
		return rt, nil
	}
	host, rest, ok := cutVersion(path)
	if !ok {
		return rt, errNoRoute
	}
	query, err := rt.readQuery(r.URL.RawQuery)
	if err != nil {
		return rt, err
	}
	if rest == "" {
		if err := rt.readRegistry(host, known); err != nil {
			return rt, err
		}
		rt.kind = kindPing
		if rt.upstream == nil {
			rt.upstream = def
		}
		return rt, nil
	}
	name, err := rt.readResource(rest, query)
	if err := rt.readRegistry(host, known); err != nil { // what is requested of it is known nevertheless
		return rt, err
	}
	if err != nil {
		return rt, err
	}
	if err := rt.readName(name, known, def); err != nil {
		return rt, err
	}
	rt.span = parseSpan(r.Header.Get("Range"))
	return rt, nil
}

// cutVersion splits "/v2/<rest>" and "/<registry>/v2/<rest>".
func cutVersion(path string) (host, rest string, ok bool) {
	if path == "/v2" {
		return "", "", true
	}
	if rest, ok = strings.CutPrefix(path, "/v2/"); ok {
		return "", rest, true
	}
	host, rest, ok = strings.Cut(path[1:], "/v2/")
	if !ok {
		host, ok = strings.CutSuffix(path[1:], "/v2")
	}
	if !ok || host == "" || strings.Contains(host, "/") {
		return "", "", false
	}
	return host, rest, true
}

// readQuery returns the query without ns, which it notes.
func (rt *route) readQuery(raw string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil || len(query["ns"]) > 1 {
		return nil, errNameInvalid
	}
	if query.Has("ns") {
		rt.ns = query.Get("ns")
		if !isRegistry(rt.ns) {
			return nil, errNameInvalid
		}
		query.Del("ns")
	}
	return query, nil
}

// readResource parses what follows the version, from the right, because names
// contain slashes. It returns the repository's name.
func (rt *route) readResource(rest string, query url.Values) (name string, err error) {
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return "", errNoRoute
	}
	name = strings.Join(parts[:len(parts)-2], "/")
	reference := parts[len(parts)-1]
	switch parts[len(parts)-2] {
	case "manifests":
		rt.kind = kindManifest
		return name, rt.readReference(reference)
	case "blobs":
		rt.kind = kindBlob
		return name, rt.readDigest(reference)
	case "referrers":
		rt.kind = kindReferrers
		rt.query = query
		return name, rt.readDigest(reference)
	case "tags":
		if reference != "list" {
			return "", errNoRoute
		}
		rt.kind = kindTags
		rt.query = query
		return name, checkPage(query)
	default:
		return "", errNoRoute
	}
}

func (rt *route) readReference(s string) error {
	switch {
	case isTag(s):
		rt.tag = s
		return nil
	case strings.Contains(s, ":"), hasEncodedColon(s):
		return rt.readDigest(s)
	case strings.Contains(strings.ToLower(s), "%2f"):
		return errNameInvalid
	default:
		return errManifestUnknown
	}
}

func (rt *route) readDigest(s string) error {
	d := digest.Digest(s)
	switch {
	case hasEncodedColon(s):
		return errColonEncoded
	case !upstream.Serves(d):
		return errDigestInvalid
	}
	rt.digest = d
	return nil
}

// hasEncodedColon reports whether a reference is spelled as some clients spell
// digests: there is one spelling of each, and none is decoded.
func hasEncodedColon(s string) bool { return strings.Contains(strings.ToLower(s), "%3a") }

// checkPage checks the n of a tag list.
func checkPage(query url.Values) error {
	if !query.Has("n") {
		return nil
	}
	n := query.Get("n")
	if _, ok := position(n); !ok || len(n) > 9 || len(query["n"]) > 1 {
		return errPageInvalid
	}
	return nil
}

// readRegistry finds the registry that the client named before the version, by
// ns, or by both. If the two differ, one of them is a mistake, and the request
// fails.
func (rt *route) readRegistry(before string, known registries) error {
	for _, named := range [...]string{before, rt.ns} {
		if named == "" {
			continue
		}
		if !isRegistry(named) {
			return errNameInvalid
		}
		up, ok := known.Find(named)
		switch {
		case !ok:
			rt.unknown = named
			return errUnknownRegistry
		case rt.upstream != nil && rt.upstream.Host != up.Host:
			return errTwoRegistries
		}
		rt.upstream = up
	}
	return nil
}

// readName settles registry and repository. Some clients put the registry into
// the name, some give it by ns as well. If the name begins with another registry
// than ns says, that is part of the repository's name. So is an unknown registry,
// except at Docker Hub, where no name begins with a host.
func (rt *route) readName(name string, known registries, def *upstream.Upstream) error {
	if first, rest, nested := strings.Cut(name, "/"); nested && looksLikeHost(first) && isRegistry(first) {
		up, ok := known.Find(first)
		switch {
		case ok && (rt.upstream == nil || rt.upstream.Host == up.Host):
			rt.upstream, rt.named, name = up, true, rest
		case rt.upstream == nil && (def.Host == upstream.DockerHub || !isComponent(first)):
			rt.unknown, rt.named = first, true
			return errUnknownRegistry
		}
	}
	if rt.upstream == nil {
		rt.upstream = def
	}
	if !isName(name) {
		return errNameInvalid
	}
	if rt.upstream.Host == upstream.DockerHub && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	rt.name = name
	return nil
}
