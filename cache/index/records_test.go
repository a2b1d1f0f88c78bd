package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// names are names that only a typed key distinguishes.
var names = []Name{
	demo("latest"),
	demo("tags"),
	{Registry: "docker.io", Repository: "library/demo", Kind: KindTag, Name: "latest", Restricted: true},
	{Registry: "docker.io", Repository: "library/demo", Kind: KindTagList},
	{Registry: "docker.io", Repository: "library/demo", Kind: KindTagList, Restricted: true},
	{Registry: "docker.io", Repository: "library/demo", Kind: KindReferrers, Name: string(digest.FromString("subject"))},
	{Registry: "docker.io", Repository: "library/demo2", Kind: KindTag, Name: "latest"},
	{Registry: "docker.io", Repository: "library", Kind: KindTag, Name: "latest"},
	{Registry: "localhost:5005", Repository: "library/demo", Kind: KindTag, Name: "latest"},
	{Registry: "docker.io2", Repository: "library/demo", Kind: KindTag, Name: "latest"},
}

func TestNames(t *testing.T) {
	keys, texts := map[string]bool{}, map[string]bool{}
	for _, name := range names {
		key, ok := strings.CutPrefix(name.key(), tagFamily)
		if got, valid := parseName(key); got != name || !ok || !valid {
			t.Errorf("%+v is decoded as %+v, %v", name, got, valid)
		}
		keys[key], texts[name.String()] = true, true
	}
	if len(keys) != len(names) || len(texts) != len(names) {
		t.Errorf("%d names have %d keys and %d texts", len(names), len(keys), len(texts))
	}
	x := reopen(t, t.TempDir())
	for _, bad := range []Name{
		{}, {Registry: "docker.io", Repository: "x", Kind: "other", Name: "y"}, {Registry: "docker.io", Repository: "x", Kind: KindTag},
		{Registry: "docker.io", Repository: "x", Kind: KindTagList, Name: "y"}, {Registry: "docker.io", Repository: "x\x00y", Kind: KindTag, Name: "z"},
	} {
		if err := x.PutTag(bad, Tag{}, false); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
}

// TestTags iterates over all, over a registry and over a repository, in more
// than one page, and stops when the caller does.
func TestTags(t *testing.T) {
	x := reopen(t, t.TempDir())
	all := slices.Clone(names)
	for i := range 2*pageSize + 1 {
		all = append(all, Name{Registry: "quay.io", Repository: "many/tags", Kind: KindTag, Name: fmt.Sprint(i)})
	}
	for _, name := range all {
		if err := x.PutTag(name, Tag{Digest: digest.FromString(name.String())}, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range [][2]string{{"", ""}, {"", "library/demo"}, {"docker.io", ""}, {"docker.io", "library/demo"}, {"quay.io", "many/tags"}, {"ghcr.io", ""}} {
		want, got := map[Name]bool{}, map[Name]bool{}
		for _, name := range all {
			if name.In(in[0], in[1]) {
				want[name] = true
			}
		}
		for r, err := range x.Tags(in[0], in[1]) {
			if err != nil || r.Digest != digest.FromString(r.String()) {
				t.Fatalf("%+v, %v", r, err)
			}
			got[r.Name] = true
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in %v: %d names, want %d", in, len(got), len(want))
		}
	}
	for range x.Tags("", "") {
		if err := x.PutTotal(1); err != nil { // the iterator holds no transaction
			t.Error(err)
		}
		break
	}
}

func TestLinks(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	d, other := digest.FromString("d"), digest.FromString("other")
	origin, repository := Origin{Registry: "ghcr.io"}, Origin{"ghcr.io", "owner/app"}
	for _, err := range []error{x.PutLink(origin, d), x.PutLink(repository, d), x.PutLink(repository, other)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := x.PutLink(Origin{}, d); err == nil {
		t.Error("a link to nothing was written")
	}
	check := func(o Origin, d digest.Digest, want bool) {
		t.Helper()
		if got, err := x.Linked(o, d); got != want || err != nil {
			t.Errorf("%+v: %v, %v", o, got, err)
		}
	}
	check(origin, other, false)
	check(Origin{"ghcr.io", "owner"}, d, false)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	lose(t, dir)
	x = reopen(t, dir) // from the snapshot
	check(origin, d, true)
	check(repository, d, true)
	if err := x.Unlink(d); err != nil {
		t.Fatal(err)
	}
	var left []LinkRecord
	for r, err := range x.Links() {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, r)
	}
	if want := []LinkRecord{{other, repository}}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}

// TestSnapshotHasWholeTags: each field of a record survives the loss of the
// index.
func TestSnapshotHasWholeTags(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	tag := Tag{Digest: digest.FromString("a"), MediaType: "m", Size: 1, Confirmed: at(1), FirstSeen: at(1), Via: ViaPull}
	tag = tag.Moved(Tag{Digest: digest.FromString("b"), MediaType: "m", Size: 2, Confirmed: at(3), FirstSeen: at(3), Via: ViaCheck, Failing: at(4)})
	for _, name := range names {
		if err := x.PutTag(name, tag, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(x.PutMediaType(tag.Digest, "m"), x.Close()); err != nil {
		t.Fatal(err)
	}
	lose(t, dir)
	x = reopen(t, dir)
	for _, name := range names {
		if got, known, err := x.Tag(name); !reflect.DeepEqual(got, tag) || !known || err != nil {
			t.Errorf("%s: %+v, %v, %v; want %+v", name, got, known, err, tag)
		}
	}
	for r, err := range x.MediaTypes() {
		if want := (MediaTypeRecord{tag.Digest, "m"}); r != want || err != nil {
			t.Errorf("media type %+v, %v", r, err)
		}
	}
}

// TestAnotherFormat starts on an index and a snapshot of another format: each is
// set aside with one line, and the next start finds its own.
func TestAnotherFormat(t *testing.T) {
	for name, change := range map[string]func(txn *badger.Txn) error{
		"older": func(txn *badger.Txn) error { return txn.Delete([]byte(formatKey)) },
		"newer": func(txn *badger.Txn) error { return txn.Set([]byte(formatKey), []byte("3")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 5)
			x := reopen(t, dir)
			if err := errors.Join(x.update(change), x.PutMediaType(digest.FromString("left"), "m"), x.Close()); err != nil {
				t.Fatal(err)
			}
			snapshot := filepath.Join(dir, snapshotName)
			content, err := os.ReadFile(snapshot)
			if err != nil {
				t.Fatal(err)
			}
			content = []byte(strings.Replace(string(content), `"version":2`, `"version":9`, 1))
			if err := os.WriteFile(snapshot, content, 0o600); err != nil {
				t.Fatal(err)
			}
			var log testkit.Log
			x = openLogged(t, dir, plenty, &log)
			if n, err := count(x.db); n != 0 || err != nil || x.InMemory() || aside(t, dir) != 1 {
				t.Errorf("%d records, %v; in memory %v; %d set aside", n, err, x.InMemory(), aside(t, dir))
			}
			if n := strings.Count(log.String(), "its format is"); n != 2 || strings.Count(log.String(), "\n") != 2 {
				t.Errorf("log:\n%s", &log)
			}
			putTag(t, x, 1)
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			x = reopen(t, dir)
			if n, err := count(x.db); n != 2 || err != nil || aside(t, dir) != 1 {
				t.Errorf("at the next start: %d records, %v; %d set aside", n, err, aside(t, dir))
			}
		})
	}
}
