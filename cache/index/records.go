package index

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Format is the version of what the index and its snapshot hold. An index of
// another format is set aside, and a snapshot of another format is not read.
// Tag and the snapshot's lines are JSON: a new optional field is no new format.
const Format = 2

// The key families. Fields of a key are separated by a zero byte, which no name
// contains.
const (
	tagFamily      = "t/"      // registry, repository, kind, visibility, name → Tag as JSON
	mediaFamily    = "m/"      // digest → media type
	linkFamily     = "l/"      // digest, registry, repository → 1
	pinFamily      = "pin/"    // registry, repository, tag or digest → Pin as JSON
	scheduleFamily = "s/"      // id → Schedule as JSON
	usedFamily     = "use/"    // raw digest → seconds since 1970, 8 bytes
	checkFamily    = "check/"  // raw digest → Verified, 24 bytes
	totalKey       = "n/bytes" // bytes of all blobs, 8 bytes
	formatKey      = "format"  // Format in decimal
)

const separator = "\x00"

// Kind is what a Name names.
type Kind string

// The kinds of names.
const (
	KindTag       Kind = "tag"       // the manifest of the tag Name.Name
	KindTagList   Kind = "tags"      // the list of all tags; Name.Name is empty
	KindReferrers Kind = "referrers" // the list of the manifests that refer to the digest Name.Name
)

// Name is a name in a repository that stands for one digest at a time. What is
// learned with credentials has a name of its own: a repository that is
// restricted now and public later, or the other way round, is asked about again.
type Name struct {
	Registry   string `json:"registry"`   // as it is configured: docker.io
	Repository string `json:"repository"` // as the registry knows it: library/nginx
	Kind       Kind   `json:"kind"`
	Name       string `json:"name,omitempty"`
	Restricted bool   `json:"restricted,omitempty"`
}

// String returns the name for logs, and as a key: different names have
// different strings.
func (n Name) String() string {
	text := n.Registry + "/" + n.Repository
	switch n.Kind {
	case KindTag:
		text += ":" + n.Name
	default:
		text += " (" + strings.TrimSpace(string(n.Kind)+" "+n.Name) + ")"
	}
	if n.Restricted {
		text += " (restricted)"
	}
	return text
}

// In reports whether the name is in the repository. An empty repository stands
// for all of the registry, and an empty registry for all registries.
func (n Name) In(registry, repository string) bool {
	return (registry == "" || n.Registry == registry) && (registry == "" || repository == "" || n.Repository == repository)
}

func (n Name) valid() bool {
	switch n.Kind {
	case KindTag, KindReferrers:
		if n.Name == "" {
			return false
		}
	case KindTagList:
		if n.Name != "" {
			return false
		}
	default:
		return false
	}
	return n.Registry != "" && n.Repository != "" && !strings.Contains(n.Registry+n.Repository+n.Name, separator)
}

const public, restricted = "public", "restricted"

func (n Name) key() string {
	visibility := public
	if n.Restricted {
		visibility = restricted
	}
	return tagFamily + strings.Join([]string{n.Registry, n.Repository, string(n.Kind), visibility, n.Name}, separator)
}

// parseName returns the Name of a key without its family.
func parseName(key string) (n Name, ok bool) {
	f := strings.Split(key, separator)
	if len(f) != 5 || f[3] != public && f[3] != restricted {
		return Name{}, false
	}
	n = Name{Registry: f[0], Repository: f[1], Kind: Kind(f[2]), Restricted: f[3] == restricted, Name: f[4]}
	return n, n.valid()
}

// namesIn is what the keys of all names in a repository begin with, without the
// family; see Name.In.
func namesIn(registry, repository string) string {
	switch {
	case registry == "":
		return ""
	case repository == "":
		return registry + separator
	default:
		return registry + separator + repository + separator
	}
}

// Via is how a box came to know what a tag names.
type Via string

// The ways in which a digest comes to a tag.
const (
	ViaPull     Via = "pull"     // a client asked for a tag that was not known
	ViaCheck    Via = "check"    // a known tag was revalidated, and had moved
	ViaWarm     Via = "warm"     // it was fetched at an operator's wish, and no client asked
	ViaOperator Via = "operator" // an operator froze the tag to it, or adopted it
	ViaImport   Via = "import"   // an operator imported it
	ViaList     Via = "list"     // not a tag: a list that its registry gave
)

// Tag is what a name was last seen to stand for.
type Tag struct {
	Digest    digest.Digest `json:"digest"` // what clients are given
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`      // bytes of the manifest or list
	Confirmed time.Time     `json:"confirmed"` // when the upstream last said so
	FirstSeen time.Time     `json:"firstSeen"` // when this box first saw it, since the name last moved
	Via       Via           `json:"via,omitempty"`
	// Failing is when the first check failed that no answer has followed; zero
	// when the last check was answered.
	Failing time.Time `json:"failing,omitzero"`
	// Frozen is set from the time when an operator freezes the tag to Digest until
	// the first check after its end.
	Frozen *Frozen `json:"frozen,omitempty"`
	// Candidate is what the upstream says that the tag names, where that is not
	// Digest: the tag is frozen, or in its cool-down.
	Candidate *Candidate `json:"candidate,omitempty"`
	// Earlier are the digests that the tag named before, the latest first; at
	// most MaxEarlier.
	Earlier []Earlier `json:"earlier,omitempty"`
}

// parseTag returns the Tag of a record's value.
func parseTag(value []byte) (tag Tag, err error) {
	err = json.Unmarshal(value, &tag)
	return tag, cmp.Or(err, tag.Digest.Validate())
}

// Origin is where restricted content may be had: a repository that is known to
// have it, or, with an empty Repository, a registry that its bytes came from.
type Origin struct {
	Registry   string `json:"registry"`
	Repository string `json:"repository,omitempty"`
}

func (o Origin) valid() bool {
	return o.Registry != "" && !strings.Contains(o.Registry+o.Repository, separator)
}

func linkKey(o Origin, d digest.Digest) string {
	return linkFamily + strings.Join([]string{d.String(), o.Registry, o.Repository}, separator)
}

// TagRecord is a Tag with its Name.
type TagRecord struct {
	Name
	Tag
}

// LinkRecord is restricted content and where it may be had.
type LinkRecord struct {
	Digest digest.Digest `json:"digest"`
	Origin
}

// MediaTypeRecord is the media type of a manifest.
type MediaTypeRecord struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
}

func parseTagRecord(key string, value []byte) (r TagRecord, ok bool) {
	name, ok := parseName(key)
	if !ok {
		return TagRecord{}, false
	}
	tag, err := parseTag(value)
	return TagRecord{name, tag}, err == nil
}

func parseLink(key string, _ []byte) (r LinkRecord, ok bool) {
	f := strings.Split(key, separator)
	if len(f) != 3 {
		return LinkRecord{}, false
	}
	r = LinkRecord{digest.Digest(f[0]), Origin{Registry: f[1], Repository: f[2]}}
	return r, r.valid() && r.Digest.Validate() == nil
}

func parseMediaType(key string, value []byte) (r MediaTypeRecord, ok bool) {
	r = MediaTypeRecord{digest.Digest(key), string(value)}
	return r, r.Digest.Validate() == nil
}
