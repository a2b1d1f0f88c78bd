package images_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/images"
)

// site is a random site: repositories with images of several shapes, and clients
// that pull them, whole or in part.
type site struct {
	*box
	random *rand.Rand
	seed   uint64
	shared [][]byte // layers that several images have
	made   []shape
}

// shape is an image of the site, as its registry has it.
type shape struct {
	repo, tag string
	root      digest.Digest
	images    []fakehub.Image // one, or those of an index
	index     bool
}

func (s *site) name() string { return fmt.Sprintf("n%d", len(s.made)) }

func (s *site) layer() []byte {
	s.seed++
	return fakehub.RandomBlob(s.seed, 200+s.random.IntN(3000))
}

// image adds an image with some layers of its own and some that others have.
func (s *site) image(repo, tag string) fakehub.Image {
	var layers [][]byte
	for range 1 + s.random.IntN(3) {
		layers = append(layers, s.layer())
	}
	if s.random.IntN(3) == 0 {
		layers = append(layers, s.shared[s.random.IntN(len(s.shared))])
	}
	if s.random.IntN(20) == 0 {
		layers = append(layers, fakehub.RandomBlob(s.seed, tooLarge))
	}
	return s.hub.Image(repo, tag, layers...)
}

// maxBlob is HUBCAP_MAX_BLOB of the sites, in bytes; tooLarge is more.
const maxBlob, tooLarge = 1 << 20, 1<<20 + 1

// chart adds what is no image: its config is read by no client.
func (s *site) chart(repo, tag string) fakehub.Image {
	layer := s.layer()
	config := []byte(fmt.Sprintf(`{"name":"chart-%d"}`, s.seed))
	img := fakehub.Image{
		Config: ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json", Digest: s.hub.AddBlob(repo, config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", Digest: s.hub.AddBlob(repo, layer), Size: int64(len(layer))}},
	}
	body, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: img.Config, Layers: img.Layers})
	must(s.t, err)
	img.Manifest = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: s.hub.AddManifest(repo, tag, ocispec.MediaTypeImageManifest, body), Size: int64(len(body))}
	return img
}

// add makes the registry have a new image under a tag.
func (s *site) add(repo, tag string) shape {
	one := shape{repo: repo, tag: tag}
	switch s.random.IntN(5) {
	case 0:
		one.images = []fakehub.Image{s.image(repo, tag)}
	case 1:
		one.images = []fakehub.Image{s.chart(repo, tag)}
	default:
		one.index = true
		var children []ocispec.Descriptor
		for _, arch := range []string{"amd64", "arm64", "s390x"}[:2+s.random.IntN(2)] {
			img := s.image(repo, "")
			img.Manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
			one.images, children = append(one.images, img), append(children, img.Manifest)
		}
		one.root = s.hub.Index(repo, tag, children...).Digest
	}
	if !one.index {
		one.root = one.images[0].Manifest.Digest
	}
	return one
}

// pull has a client pull an image, or a part of it, in one of the ways in which
// clients do. What fails, fails.
func (s *site) pull(one shape) {
	if s.random.IntN(2) == 0 { // as containerd
		if d, _, err := s.ask(http.MethodHead, manifestPath(one.repo, one.tag)); err == nil {
			_, _, _ = s.ask(http.MethodGet, manifestPath(one.repo, d))
		}
	} else {
		_, _, _ = s.ask(http.MethodGet, manifestPath(one.repo, one.tag))
	}
	if s.random.IntN(10) == 0 {
		return // it has the layers
	}
	chosen := s.random.IntN(len(one.images))
	all := s.random.IntN(3) == 0 // as containerd 2.4
	for i, img := range one.images {
		if one.index && (i == chosen || all) {
			_, _, _ = s.ask(http.MethodGet, manifestPath(one.repo, img.Manifest.Digest))
			_, _, _ = s.ask(http.MethodGet, blobPath(one.repo, img.Config.Digest))
		}
	}
	img := one.images[chosen]
	if !one.index {
		_, _, _ = s.ask(http.MethodGet, blobPath(one.repo, img.Config.Digest))
	}
	partial := s.random.IntN(5) == 0
	for _, layer := range img.Layers {
		if !partial || s.random.IntN(2) == 0 {
			_, _, _ = s.ask(http.MethodGet, blobPath(one.repo, layer.Digest))
		}
	}
}

// play has things happen at the site until it has so many images.
func (s *site) play(count int) {
	for range 20 {
		s.shared = append(s.shared, s.layer())
	}
	repos := []string{"library/a", "library/b", "team/c", "private/d"}
	for len(s.made) < count {
		one := s.add(repos[s.random.IntN(len(repos))], s.name())
		s.pull(one)
		s.made = append(s.made, one)
		before := &s.made[s.random.IntN(len(s.made))]
		switch s.random.IntN(12) {
		case 0, 1, 2, 3: // again, maybe another platform of it
			s.pull(*before)
		case 4: // its tag moves, and somebody asks
			*before = s.add(before.repo, before.tag)
			s.clock.Advance(2 * time.Minute)
			_, _, _ = s.ask(http.MethodHead, manifestPath(before.repo, before.tag))
		case 5: // its tag moves, and it is pulled
			*before = s.add(before.repo, before.tag)
			s.clock.Advance(2 * time.Minute)
			s.pull(*before)
		case 6, 7: // a part of it is evicted
			s.settle()
			img := before.images[s.random.IntN(len(before.images))]
			parts := append([]digest.Digest{before.root, img.Manifest.Digest, img.Config.Digest}, img.Layers[0].Digest)
			s.evict(parts[s.random.IntN(len(parts))])
		case 8: // it is deleted at the registry, and somebody asks
			s.hub.DeleteTag(before.repo, before.tag)
			s.clock.Advance(2 * time.Minute)
			_, _, _ = s.ask(http.MethodHead, manifestPath(before.repo, before.tag))
		case 9:
			s.clock.Advance(time.Duration(s.random.IntN(100)) * time.Minute)
		case 10:
			if s.random.IntN(10) == 0 {
				s.settle()
				s.restart()
			}
		case 11:
			s.Images.Walk(images.Terms{Days: 30}) // what it finds is known to the later ones
		}
	}
	s.settle()
}

// evict has the ledger evict something.
func (s *site) evict(d digest.Digest) {
	if s.Ledger.Evict(d) {
		s.Cache.Remove(d)
	}
}

// survives pulls a platform of an image whole, as a client does, and verifies it.
func (s *site) survives(repo, reference, key string) error {
	root, body, err := s.ask(http.MethodGet, manifestPath(repo, reference))
	if err != nil {
		return err
	}
	var index ocispec.Index
	must(s.t, json.Unmarshal(body, &index))
	if len(index.Manifests) > 0 {
		found := false
		for _, child := range index.Manifests {
			if found = child.Platform != nil && child.Platform.OS+"/"+child.Platform.Architecture == key; found {
				if _, body, err = s.ask(http.MethodGet, manifestPath(repo, child.Digest)); err != nil {
					return err
				}
				if child.Digest != digest.FromBytes(body) || child.Size != int64(len(body)) {
					return fmt.Errorf("manifest of %d bytes", len(body))
				}
				break
			}
		}
		if !found {
			return fmt.Errorf("%s has no platform %s", root, key)
		}
	} else if key != "" {
		return fmt.Errorf("%s is no index", root)
	}
	var manifest ocispec.Manifest
	must(s.t, json.Unmarshal(body, &manifest))
	blobs := manifest.Layers
	if manifest.Config.MediaType == ocispec.MediaTypeImageConfig {
		blobs = append(blobs, manifest.Config)
	}
	for _, d := range blobs {
		_, body, err := s.ask(http.MethodGet, blobPath(repo, d.Digest))
		if err != nil {
			return err
		}
		if d.Digest != digest.FromBytes(body) || d.Size != int64(len(body)) {
			return fmt.Errorf("%s: %d bytes", d.Digest, len(body))
		}
	}
	return nil
}

// TestOutageAgrees plays random sites, cuts the line, and has a client pull every
// image: those that are said to be ready are pulled in full, and of the others no
// platform that is said to have gaps. They are 1,000 images, and few in the short
// form.
func TestOutageAgrees(t *testing.T) {
	sites, most := 10, 110
	if testing.Short() {
		sites, most = 3, 30
	}
	counts := make(map[string]int)
	for n := range uint64(sites) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			environ := []string{
				fmt.Sprintf("HUBCAP_MAX_BLOB=%d", maxBlob), "HUBCAP_UPSTREAM_0_VISIBILITY=shared", "HUBCAP_UPSTREAM_0_SHARED_REPOSITORIES=private/**",
				"HUBCAP_UPSTREAM_0_USERNAME=u", "HUBCAP_UPSTREAM_0_PASSWORD=p",
			}
			if n%2 == 1 {
				environ = append(environ, "HUBCAP_STALE_IF_ERROR=24h")
			}
			if n%3 == 2 {
				environ = append(environ, "HUBCAP_PREFETCH=on-pull")
			}
			s := &site{box: newBox(t, 0, environ...), random: rand.New(rand.NewPCG(n, 1)), seed: n << 32}
			s.hub.Set(func(o *fakehub.Options) { o.Users = map[string]string{"u": "p"} })
			s.hub.SetPrivate("private/d", "u")
			images := most
			if n == 0 { // where each answer waits for a registry that does not answer
				images = 10
			}
			s.play(images)
			s.clock.Advance(2 * time.Minute) // no tag is fresh
			s.check(t, counts, n == 0)
		})
	}
	t.Log(counts)
	if testing.Short() {
		return
	}
	for _, what := range []string{"ready", "gaps", "refused", "ready by an earlier digest", "a platform with gaps",
		string(images.Evicted), string(images.NeverFetched), string(images.TooLarge), string(images.Moved), string(images.Hidden)} {
		if counts[what] == 0 {
			t.Errorf("no site had: %s", what)
		}
	}
}

// check cuts the line and compares what is said with what is so.
func (s *site) check(t *testing.T, counts map[string]int, cut bool) {
	page, err := s.Images.List(images.Query{})
	must(t, err)
	s.reported(t, page.Images)
	if cut {
		s.hub.Down()
		_, _, _ = s.ask(http.MethodGet, manifestPath("library/a", "unknown")) // it is noticed
	} else if _, err := s.Offline.On(0); err != nil {
		t.Fatal(err)
	}
	for _, row := range page.Images {
		if row.Outage == "" {
			counts["not wanted"]++
			continue
		}
		counts[string(row.Outage)]++
		if row.Served != "" {
			counts["ready by an earlier digest"]++
		}
		repo, name := splitRef(row.Ref)
		failed := false
		for _, p := range row.Platforms {
			if !p.Wanted {
				continue
			}
			for _, g := range p.Gaps {
				counts[string(g.Why)]++
			}
			key := p.Platform
			if strings.Contains(key, ":") {
				continue
			}
			err := s.survives(repo, name, key)
			failed = failed || err != nil
			if ready := row.Outage != images.Refused && row.Why == "" && len(p.Gaps) == 0; ready != (err == nil) {
				t.Errorf("%s %s: %s, and the pull says %v\n%+v", row.Ref, cmp.Or(key, "plain"), text(row), err, row)
			} else if !ready {
				counts["a platform with gaps"]++
			}
		}
		if ready := row.Outage == images.Ready; ready == failed && len(row.Platforms) > 0 {
			t.Errorf("%s: %s, and pulls fail: %v\n%+v", row.Ref, text(row), failed, row)
		}
	}
}

// reported checks that the report says the same as the rows of the images.
func (s *site) reported(t *testing.T, rows []images.Image) {
	t.Helper()
	report := s.Outage.Report(images.Terms{})
	count := make(map[images.Outage]int)
	not := make(map[string]images.Outage)
	for _, row := range rows {
		count[row.Outage]++
		if row.Outage == images.Gaps || row.Outage == images.Refused {
			not[row.Ref] = row.Outage
		}
	}
	if report.Ready != count[images.Ready] || report.Gaps != count[images.Gaps] || report.Refused != count[images.Refused] || report.Images != report.Ready+len(not) {
		t.Errorf("the report says %+v, the rows %v", report.Summary, count)
	}
	for _, row := range report.Not {
		if not[row.Ref] != row.Outage {
			t.Errorf("%s is %s in the report, and %s in its row", row.Ref, row.Outage, not[row.Ref])
		}
		delete(not, row.Ref)
	}
	if len(not) > 0 {
		t.Errorf("the report lacks %v", not)
	}
}

// splitRef splits the name of an image at docker.io.
func splitRef(ref string) (repo, name string) {
	ref = strings.TrimPrefix(ref, "docker.io/")
	i := strings.IndexAny(ref, ":@")
	return ref[:i], ref[i+1:]
}
