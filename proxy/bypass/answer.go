package bypass

import (
	"net/netip"
	"time"
)

// Kind is what a request asks for.
type Kind uint8

// The kinds of requests.
const (
	List Kind = iota // tags or referrers: no pull depends on it
	Ping             // GET /v2/
	Manifest
	Blob
)

// Why is why an answer makes clients leave.
type Why uint8

// The reasons.
const (
	None            Why = iota // it does not
	Limited                    // 429: the registry's limit, or this client's
	Failed                     // the registry or hubcap failed
	Incomplete                 // the registry fails, and the image is not completely cached
	Refused                    // the operator or the registry does not allow it, or the request is malformed
	UnknownRegistry            // not a registry that this box serves
	NotAllowed                 // the client's address may not pull
	Cut                        // hubcap ended the answer early
	NotFound                   // the registry does not have it
	reasons
)

var whyNames = [reasons]string{"", "limited", "failed", "incomplete", "refused", "unknown_registry", "not_allowed", "cut", "not_found"}

func (w Why) String() string { return whyNames[w] }

// Answer is an answer that a client was given.
type Answer struct {
	Client netip.Addr
	Family Family
	Kind   Kind
	Head   bool // the method

	Registry   string // empty if it is not known
	Repository string // as the registry knows it; empty if the request could not be parsed that far
	Tag        string
	Digest     string // if there is no tag
	Path       string // of the request
	NS         bool   // the client named the registry by ns, as clients of a mirror do
	Named      bool   // the registry is part of the repository's name in the path

	Status int
	Whole  bool // the client was sent all of it
	Why    Why
	Bytes  int64         // of the body
	Took   time.Duration // from the request to the end of the answer
}

// leaves reports whether a client turns to the registry after the answer, as
// measured with each of them by TestWhoGoesAroundTheBox in package e2e.
//
// A client that pulls from the box by the box's own name has no other place to
// go. Such a pull of Docker Hub's content cannot be told from that of a mirror
// and counts as one, since dockerd names no registry to its mirrors. podman
// writes the registry into the name in either case.
func (a Answer) leaves() bool {
	switch {
	case a.Why == None, a.Kind == List:
		return false
	case a.Family == Containers:
		// It chooses its source once, by ping and manifest, and fails if a blob
		// is missing there. After 429 it waits.
		return a.Kind != Blob && a.Why != Limited
	case a.Kind == Ping: // the others ask for the manifest nevertheless
		return false
	case a.Family == Other: // only some are clients of a mirror
		return a.NS
	default:
		return a.NS || !a.Named
	}
}

// dispels reports whether an answer without a reason to leave shows that the
// client has stayed. Nobody else has a blob that is fetched here; other blobs of
// its image may come from here nevertheless. An image whose manifest failed is
// fetched here if the manifest is after all, or anything that it can name:
// another manifest by digest, or a blob.
func (a Answer) dispels(s suspicion) bool {
	of := a.suspect()
	switch {
	case of.family != s.family || of.repository != s.repository:
		return false
	case s.kind == Blob:
		return a.Kind == Blob && !a.Head && of.reference == s.reference
	case a.Kind == Manifest:
		return of.reference == s.reference || !a.Head && a.Tag == ""
	default:
		return a.Kind == Blob && !a.Head
	}
}

// pull reports whether the answer is that to the first request of a pull:
// dockerd and containerd begin with HEAD, podman and crane with the tag.
func (a Answer) pull() bool {
	return a.Kind == Manifest && a.Why == None && a.Whole && (a.Head || a.Tag != "")
}

// suspect returns who was answered about what.
func (a Answer) suspect() suspect {
	s := suspect{client: a.Client, family: a.Family}
	switch {
	case a.Kind == Ping:
	case a.Repository == "":
		s.reference = bounded(a.Path)
	default:
		s.repository, s.reference = bounded(a.Registry+"/"+a.Repository), bounded(a.Tag+a.Digest)
	}
	return s
}

// image returns what was requested, as people write it.
func (a Answer) image() string {
	switch {
	case a.Kind == Ping:
		return ""
	case a.Repository == "":
		return bounded(a.Path)
	case a.Tag != "":
		return bounded(a.Registry + "/" + a.Repository + ":" + a.Tag)
	default:
		return bounded(a.Registry + "/" + a.Repository + "@" + a.Digest)
	}
}
