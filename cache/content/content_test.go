package content

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// of is a digest for a test.
func of(s string) string { return digest.FromString(s).String() }

// TestParse reads each kind of document into its members.
func TestParse(t *testing.T) {
	blob := func(mediaType, name, more string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + of(name) + `","size":7` + more + `}`
	}
	const config, layer = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"
	for name, tt := range map[string]struct {
		body                     string
		kind                     Kind
		mediaType                string
		blobs, needed, manifests string
		subject                  string
	}{
		"image": {
			body: `{"schemaVersion":2,"config":` + blob(config, "c", "") + `,"layers":[` + blob(layer, "a", "") + `,` + blob(layer, "b", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "a b c", needed: "a b c",
		},
		"docker image with a foreign layer": {
			body: `{"schemaVersion":2,"mediaType":"x/y","config":` + blob(DockerConfig, "c", "") + `,"layers":[` +
				blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "a", "") + `,` + blob(layer, "b", `,"urls":["http://elsewhere"]`) + `]}`,
			kind: Image, mediaType: "x/y", blobs: "a b c", needed: "c",
		},
		"artifact with a subject": {
			body: `{"schemaVersion":2,"config":` + blob("application/vnd.example", "c", "") + `,"layers":[` + blob("text/x", "a", "") + `],"subject":` + blob("m", "s", "") + `}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "a c", needed: "a", subject: "s",
		},
		"artifact without content": {
			body: `{"schemaVersion":2,"config":` + blob("application/vnd.oci.empty.v1+json", "{}", "") + `,"layers":[` + blob("application/vnd.oci.empty.v1+json", "{}", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.image.manifest.v1+json", blobs: "{} {}",
		},
		"artifact manifest": {
			body: `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[` + blob("text/x", "a", "") + `]}`,
			kind: Image, mediaType: "application/vnd.oci.artifact.manifest.v1+json", blobs: "a", needed: "a",
		},
		"index": {
			body: `{"schemaVersion":2,"manifests":[` + blob("m", "a", `,"platform":{"os":"linux","architecture":"arm64"}`) + `,` + blob("m", "b", "") + `],"layers":null}`,
			kind: Index, mediaType: "application/vnd.oci.image.index.v1+json", manifests: "a b",
		},
		"empty index":                {body: `{"schemaVersion":2,"manifests":[]}`, kind: Index, mediaType: "application/vnd.oci.image.index.v1+json"},
		"image with null manifests":  {body: `{"schemaVersion":2,"manifests":null,"layers":[` + blob(layer, "a", "") + `]}`, kind: Image, blobs: "a", needed: "a"},
		"invalid descriptors":        {body: `{"layers":[{"digest":"x"},{"digest":"sha256:ab"},` + blob(layer, "b", "") + `]}`, kind: Image, blobs: "b", needed: "b"},
		"descriptor without a size":  {body: `{"layers":[{"digest":"` + of("a") + `"}]}`, kind: Image, blobs: "a", needed: "a"},
		"parameters of a media type": {body: `{"config":` + blob(config+"; charset=utf-8", "c", "") + `}`, kind: Image, blobs: "c", needed: "c"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse([]byte(tt.body))
			if err != nil || m.Kind != tt.kind || m.MediaType != tt.mediaType {
				t.Fatalf("%v, kind %d, type %q", err, m.Kind, m.MediaType)
			}
			list := func(only Role, not Role) string {
				var all []string
				for _, p := range m.Parts() {
					if p.Is(only) && !p.Is(not) {
						all = append(all, p.Digest.String())
					}
				}
				return strings.Join(all, " ")
			}
			want := func(names string) string {
				var all []string
				for _, n := range strings.Fields(names) {
					all = append(all, of(n))
				}
				return strings.Join(all, " ")
			}
			var blobs []string
			for _, p := range m.Parts() {
				if !p.Is(RoleChild) {
					blobs = append(blobs, p.Digest.String())
				}
			}
			if got := strings.Join(blobs, " "); got != want(tt.blobs) {
				t.Errorf("blobs %s", got)
			}
			if got := list(RoleNeeded, 0); got != want(tt.needed) {
				t.Errorf("needed %s", got)
			}
			if got := list(RoleChild, RoleNeeded); got != want(tt.manifests) {
				t.Errorf("children %s", got)
			}
			var children []string
			for _, c := range m.Manifests {
				children = append(children, c.Digest.String())
			}
			if got := strings.Join(children, " "); got != want(tt.manifests) {
				t.Errorf("manifests %s", got)
			}
			if tt.subject != "" && m.Subject.String() != of(tt.subject) {
				t.Errorf("subject %s", m.Subject)
			}
		})
	}
}

// TestParseOther shows that JSON that is not a manifest is recognized, and that a member
// of the wrong type does no harm.
func TestParseOther(t *testing.T) {
	for body, want := range map[string]Kind{
		`{}`: Other, `{"layers":7}`: Other, `{"schemaVersion":2}`: Other, `{"manifests":{}}`: Other,
		`{"config":{"Env":[]},"rootfs":{}}`:     Other,
		`{"layers":[{"size":"7"},7,{}]}`:        Image,
		`{"manifests":[],"artifactType":7}`:     Index,
		`{"schemaVersion":1,"fsLayers":[{}]}`:   Schema1,
		`{"schemaVersion":1,"fsLayers":null}`:   Other,
		`{"schemaVersion":2,"fsLayers":[]}`:     Other,
		`{"layers":[],"annotations":{"b":"x"}}`: Image,
	} {
		if m, err := Parse([]byte(body)); err != nil || m.Kind != want {
			t.Errorf("%s: kind %d, %v", body, m.Kind, err)
		}
	}
}

// TestParseRefuses shows that what is not a JSON object, what two parsers could read
// differently, and what is larger than manifests are is refused.
func TestParseRefuses(t *testing.T) {
	for _, body := range []string{``, `null`, ` null `, `[]`, `7`, `["v1","v2"]`, `{`, `{"a":}`, `{"mediaType":7}`, `{"schemaVersion":"2"}`, `{"layers":[],"manifests":[]}`, `{"layers":7,"manifests":8}`} {
		if m, err := Parse([]byte(body)); err == nil {
			t.Errorf("%s: %v", body, m)
		}
	}
}

func TestShape(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for name, tc := range map[string]struct {
		manifest string
		fine     bool
	}{
		"an image":                  {`{"schemaVersion":2,"mediaType":"x","config":{"digest":"d","size":1},"layers":[{"digest":"a"},{"digest":"b"}]}`, true},
		"a name twice below":        {`{"layers":[{"digest":"a"},{"digest":"b"}],"annotations":{"x":"mediaType","y":"mediaType"}}`, true},
		"a value like a name":       {`{"a":"b","b":"a","c":["a","b"],"d":{"a":1}}`, true},
		"brackets and quotes":       {`{"a":"}],\"b\":[{","b":"\\","c":["]"],"d":"\\\""}`, true},
		"empty":                     {`{}`, true},
		"as deep as allowed":        {deep(maxDepth - 1), true},
		"deeper":                    {deep(maxDepth), false},
		"much deeper":               {deep(100_000), false},
		"as many as allowed":        {`{"manifests":[` + strings.Repeat("{},", maxObjects-2) + `{}]}`, true},
		"more":                      {`{"manifests":[` + strings.Repeat("{},", maxObjects-1) + `{}]}`, false},
		"a media type twice":        {`{"mediaType":"a","config":{},"mediaType":"b"}`, false},
		"a media type in two cases": {`{"mediaType":"a","MediaType":"b"}`, false},
		"layers twice":              {`{"layers":[{"digest":"a"}],"layers":[]}`, false},
		"a name twice, escaped":     {`{"layers":[],"l\u0061yers":[]}`, false},
		"a long s":                  {`{"layers":[],"layerſ":[]}`, false},
		"after a list":              {`{"layers":[[],{}],"x":{"y":[1,2]} , "layers" : 7}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.manifest)); (err == nil) != tc.fine {
				t.Errorf("%v", err)
			}
		})
	}
}

// FuzzShape compares the doubled members that are found with those that
// encoding/json meets.
func FuzzShape(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":{"a":[{"a":2}]}}`, `{"a":1,"A":2}`, `{"\"":"\\","x":"{[,"}`, `{"a":{},"a":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var top map[string]json.RawMessage
		if json.Unmarshal(body, &top) != nil || len(body) > 1000 {
			return
		}
		tokens, names, depth, isName := json.NewDecoder(bytes.NewReader(body)), map[string]bool{}, 0, false
		twice, deepest := false, 0
		for {
			token, err := tokens.Token()
			if err != nil {
				break
			}
			switch token {
			case json.Delim('{'), json.Delim('['):
				depth++
				isName = depth == 1
			case json.Delim('}'), json.Delim(']'):
				depth--
				isName = depth == 1
			default:
				if name, ok := token.(string); ok && isName {
					twice = twice || names[fold(name)]
					names[fold(name)], isName = true, false
				} else if depth == 1 {
					isName = true
				}
			}
			deepest = max(deepest, depth)
		}
		if err := checkShape(body); (err != nil) != (twice || deepest > maxDepth) {
			t.Errorf("%q: %v, twice %v", body, err, twice)
		}
	})
}

// BenchmarkParse reads the largest manifest there may be, a hostile one of the
// same size, and an image of 12 layers.
func BenchmarkParse(b *testing.B) {
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:` + strings.Repeat("a", 64) + `","size":1}`
	image := func(n int) string { return `{"layers":[` + strings.Repeat(layer+",", n-1) + layer + `]}` }
	hostile := `{"manifests":[` + strings.Repeat("{},", 1<<20) + `{}]}`
	for name, manifest := range map[string]string{"large": image(25_000), "hostile": hostile, "image": image(12)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(manifest)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Parse([]byte(manifest))
			}
		})
	}
}

// TestSizes: a size that is not given is negative, that of the empty content is 0.
func TestSizes(t *testing.T) {
	m, err := Parse([]byte(`{"layers":[{"digest":"` + of("a") + `"},{"digest":"` + of("b") + `","size":0},{"digest":"` + of("") + `","size":0},{"digest":"` + of("c") + `","size":-3},{"digest":"` + of("d") + `","size":4}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{-1, -1, 0, -1, 4} {
		if got := m.Layers[i].Size; got != want {
			t.Errorf("layer %d: %d, want %d", i, got, want)
		}
	}
}
