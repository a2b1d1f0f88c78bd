package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestHistoryHolds plays what registries and operators do with a tag, at random:
// each digest is in the record once, the latest ones are kept, and what clients
// were given stays known as that.
func TestHistoryHolds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Unix(1_900_000_000, 0)
	anyone := func() digest.Digest { return digest.FromString(fmt.Sprint(random.IntN(40))) }
	tag := Tag{}.Moved(Tag{Digest: anyone(), Confirmed: at, FirstSeen: at, Via: ViaPull})
	var served []digest.Digest // what clients were given, the latest last
	for step := range 2_000 {
		at = at.Add(time.Minute)
		to := Tag{Digest: anyone(), Confirmed: at, FirstSeen: at, Via: ViaCheck}
		before, text := tag, fmt.Sprintf("%+v", tag)
		switch random.IntN(4) {
		case 0:
			tag = tag.FrozenTo(to, Frozen{Since: at})
		case 1:
			tag = tag.Named(to.Digest, at, ViaCheck)
			if tag.Digest != before.Digest || !tag.Asked().Equal(at) {
				t.Fatalf("step %d: named %+v", step, tag)
			}
		default:
			tag = tag.Moved(to)
		}
		if fmt.Sprintf("%+v", before) != text {
			t.Fatalf("step %d: a record that readers may have was changed", step)
		}
		served = append(slices.DeleteFunc(served, func(d digest.Digest) bool { return d == tag.Digest }), tag.Digest)
		checkHistory(t, step, tag)
		if len(served) > 1 && len(tag.Earlier) < MaxEarlier && !tag.Served(served[len(served)-2]) {
			t.Fatalf("step %d: what was served before is not known as that: %+v", step, tag)
		}
	}
}

func checkHistory(t *testing.T, step int, tag Tag) {
	t.Helper()
	all := []digest.Digest{tag.Digest}
	if c := tag.Candidate; c != nil {
		all = append(all, c.Digest)
	}
	for _, one := range tag.Earlier {
		all = append(all, one.Digest)
	}
	n := len(all)
	slices.Sort(all)
	if len(slices.Compact(all)) != n || len(tag.Earlier) > MaxEarlier || tag.FirstSeen.IsZero() || tag.Confirmed.IsZero() {
		t.Fatalf("step %d: %+v", step, tag)
	}
}

// longest is a tag whose record is as long as one can be.
func longest() Tag {
	at := time.Date(2030, 1, 1, 0, 0, 0, 123_456_789, time.UTC)
	text := strings.Repeat("\x01", 500)
	tag := Tag{MediaType: strings.Repeat("m", 100), Size: 1 << 40}
	for i := range MaxEarlier + 2 {
		to := tag
		to.Digest, to.Confirmed, to.FirstSeen, to.Failing, to.Via = digest.SHA512.FromString(fmt.Sprint(i)), at, at, at, ViaOperator
		tag = tag.Moved(to)
	}
	tag = tag.Named(digest.SHA512.FromString("candidate"), at, ViaOperator)
	return tag.FrozenTo(tag, Frozen{Since: at, Until: at, Note: text, By: text, Thawed: true, Deleted: at})
}

// TestKept finds the tags that are frozen or have a candidate, after the loss of
// the index too, and counts all tags. The longest record is among them.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	plain := Tag{Digest: digest.FromString("x"), MediaType: `"frozen":{"candidate":{`, Confirmed: time.Unix(1, 0).UTC(), FirstSeen: time.Unix(1, 0).UTC()}
	waiting, frozen := plain, longest()
	waiting.Candidate = &Candidate{Digest: digest.FromString("y"), FirstSeen: time.Unix(2, 0).UTC(), Confirmed: time.Unix(3, 0).UTC(), Via: ViaCheck, Served: true}
	kept := map[Name]Tag{demo("waiting"): waiting, demo(strings.Repeat("l", 128)): frozen}
	err := x.PutTag(Name{Registry: "docker.io", Repository: "library/demo", Kind: KindTagList}, waiting, false) // no tag
	for name, tag := range kept {
		err = errors.Join(err, x.PutTag(name, tag, true))
	}
	for i := range 2*pageSize + 1 {
		err = errors.Join(err, x.PutTag(demo(fmt.Sprint(i)), plain, false))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at first", "after the loss of the index"} {
		all, tags, err := x.Kept()
		got := map[Name]Tag{}
		for _, one := range all {
			got[one.Name] = one.Tag
		}
		if err != nil || tags != 2*pageSize+3 || !reflect.DeepEqual(got, kept) {
			t.Errorf("%s: %d tags, kept %+v, %v", when, tags, got, err)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		lose(t, dir)
		x = reopen(t, dir)
	}
	if value, err := json.Marshal(line{Tag: &TagRecord{demo(strings.Repeat("l", 128)), frozen}}); err != nil || len(value) > maxLine {
		t.Errorf("the longest line has %d bytes, %v", len(value), err)
	} else {
		t.Logf("the longest line has %d bytes", len(value))
	}
}

// BenchmarkKept reads the tags of a large site at the start: 100,000 with a full
// history.
func BenchmarkKept(b *testing.B) {
	x, err := Open(Options{Dir: b.TempDir(), Room: plenty, Reserve: 1, Interval: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	tag := longest()
	tag.Frozen, tag.Candidate = nil, nil
	for i := range 100_000 {
		if err := x.PutTag(demo(fmt.Sprint(i)), tag, false); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if kept, tags, err := x.Kept(); err != nil || len(kept) != 0 || tags != 100_000 {
			b.Fatal(len(kept), tags, err)
		}
	}
}
