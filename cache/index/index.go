// Package index keeps facts about files: what a tag names, what media type a
// manifest has, when a blob was last used and last verified. It is never the
// truth about bytes; whatever it has lost or got wrong costs a question
// upstream or an eviction out of order, and no more.
//
// It alone knows Badger. Files: index.go (records), open.go (the start),
// check.go (Badger's files tried in a process of their own), database.go (one
// open Badger, and what its panics may not harm), dir.go (the data directory),
// snapshot.go (what survives its loss), restore.go (a new index of it), room.go
// (how much disk it may want).
package index

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// The key families.
const (
	tagPrefix   = "t/"      // t/<registry>/<repository>:<tag> → Tag as JSON
	mediaPrefix = "m/"      // m/<digest> → media type
	usedPrefix  = "use/"    // use/<raw digest> → seconds since 1970, 8 bytes
	totalKey    = "n/bytes" // bytes of all blobs, 8 bytes
	linkPrefix  = "l/"      // l/<digest>/<registry>/<repository> → 1
	checkPrefix = "check/"  // check/<raw digest> → Verified, 24 bytes
)

// Tag is what a tag was last seen to name.
type Tag struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`      // bytes of the manifest
	Confirmed time.Time     `json:"confirmed"` // when the upstream last said so
	// Failing is when it first failed to say so since; zero when it has not.
	Failing time.Time `json:"failing,omitzero"`
	// Earlier are the digests that the tag named before, the latest first; at
	// most MaxEarlier.
	Earlier []Earlier `json:"earlier,omitempty"`
}

// MaxEarlier is how many earlier digests of a tag are kept.
const MaxEarlier = 20

// Earlier is a digest that a tag named before.
type Earlier struct {
	Digest    digest.Digest `json:"digest"`
	Confirmed int64         `json:"confirmed"` // seconds since 1970, when the upstream last said so
}

// Moved returns a tag that names what to says now, with the history of t.
func (t Tag) Moved(to Tag) Tag {
	if t.Digest == to.Digest || t.Digest == "" {
		to.Earlier = t.Earlier
		return to
	}
	to.Earlier = make([]Earlier, 0, min(len(t.Earlier)+1, MaxEarlier))
	to.Earlier = append(to.Earlier, Earlier{Digest: t.Digest, Confirmed: t.Confirmed.Unix()})
	for _, one := range t.Earlier {
		if one.Digest != to.Digest && one.Digest != t.Digest && len(to.Earlier) < MaxEarlier {
			to.Earlier = append(to.Earlier, one)
		}
	}
	return to
}

// Tag returns what the tag named key was last seen to name, and whether
// anything is known of it.
func (x *Index) Tag(key string) (tag Tag, known bool, err error) {
	value, err := x.get(tagPrefix + key)
	if err != nil || value == nil {
		return Tag{}, false, err
	}
	if err := json.Unmarshal(value, &tag); err != nil {
		return Tag{}, false, fmt.Errorf("index record of tag %s: %w", key, err)
	}
	if err := tag.Digest.Validate(); err != nil {
		return Tag{}, false, fmt.Errorf("index record of tag %s: %w", key, err)
	}
	return tag, true, nil
}

// PutTag notes what a tag names. With sync, it is on disk when PutTag returns.
func (x *Index) PutTag(key string, tag Tag, sync bool) error {
	value, err := json.Marshal(tag)
	if err != nil {
		return err
	}
	if err := x.set(tagPrefix+key, value); err != nil {
		return err
	}
	if sync {
		return x.sync()
	}
	return nil
}

// DeleteTag forgets a tag.
func (x *Index) DeleteTag(key string) error { return x.delete(tagPrefix + key) }

// MediaType returns the media type of the manifest d, or "" when it is not
// known.
func (x *Index) MediaType(d digest.Digest) (string, error) {
	value, err := x.get(mediaPrefix + d.String())
	return string(value), err
}

// PutMediaType notes the media type of the manifest d.
func (x *Index) PutMediaType(d digest.Digest, mediaType string) error {
	return x.set(mediaPrefix+d.String(), []byte(mediaType))
}

// PutUsed notes when blobs were last used, in one batch.
func (x *Index) PutUsed(used map[digest.Digest]time.Time) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		for d, at := range used {
			value := binary.BigEndian.AppendUint64(nil, uint64(max(at.Unix(), 0)))
			if err := set(usedPrefix+raw(d.String()), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Used calls visit with the last use of each blob whose digest begins with
// prefix.
func (x *Index) Used(prefix string, visit func(d digest.Digest, at time.Time)) error {
	return x.scan(usedPrefix, raw(prefix), func(key string, value []byte) error {
		if len(value) == 8 {
			at := int64(binary.BigEndian.Uint64(value)) //nolint:gosec // PutUsed writes no negative
			visit(cooked(key), time.Unix(at, 0))
		}
		return nil
	})
}

// Verified is what a file looked like when its content was last known to be
// right.
type Verified struct {
	Signature uint64 // as cache/blobs makes it
	Size      int64  // bytes
	At        int64  // seconds since 1970
}

// PutVerified notes verifications, in one batch.
func (x *Index) PutVerified(verified map[digest.Digest]Verified) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		for d, v := range verified {
			value := binary.BigEndian.AppendUint64(nil, v.Signature)
			value = binary.BigEndian.AppendUint64(value, uint64(max(v.At, 0)))
			value = binary.BigEndian.AppendUint64(value, uint64(max(v.Size, 0)))
			if err := set(checkPrefix+raw(d.String()), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verified calls visit with the last verification of each blob whose digest
// begins with prefix.
func (x *Index) Verified(prefix string, visit func(d digest.Digest, v Verified)) error {
	return x.scan(checkPrefix, raw(prefix), func(key string, value []byte) error {
		if len(value) == 24 {
			at := int64(binary.BigEndian.Uint64(value[8:]))    //nolint:gosec // PutVerified writes no negative
			size := int64(binary.BigEndian.Uint64(value[16:])) //nolint:gosec // see above
			visit(cooked(key), Verified{Signature: binary.BigEndian.Uint64(value), Size: size, At: at})
		}
		return nil
	})
}

// PutLinks notes, in one batch, that the repository, which is not for everybody,
// has the blobs.
func (x *Index) PutLinks(repository string, has []digest.Digest) error {
	x.changed.Store(true)
	return x.batch(func(set func(key string, value []byte) error) error {
		for _, d := range has {
			if err := set(linkKey(repository, d), linked); err != nil {
				return err
			}
		}
		return nil
	})
}

// Linked tells whether the repository is known to have d.
func (x *Index) Linked(repository string, d digest.Digest) (linked bool, err error) {
	value, err := x.get(linkKey(repository, d))
	return value != nil, err
}

// Links calls visit with each link.
func (x *Index) Links(visit func(repository string, d digest.Digest)) error {
	return x.scan(linkPrefix, "", func(key string, _ []byte) error {
		if d, repository, ok := strings.Cut(key, "/"); ok {
			visit(repository, digest.Digest(d))
		}
		return nil
	})
}

// Unlink forgets which repositories have d.
func (x *Index) Unlink(d digest.Digest) error {
	var gone []string
	err := x.scan(linkPrefix, d.String()+"/", func(key string, _ []byte) error {
		gone = append(gone, linkPrefix+key)
		return nil
	})
	for _, key := range gone {
		err = errors.Join(err, x.delete(key))
	}
	return err
}

// linked is the value of a link: a record without one is not told from none.
var linked = []byte{1}

func linkKey(repository string, d digest.Digest) string {
	return linkPrefix + d.String() + "/" + repository
}

// PutTotal notes how many bytes all blobs have.
func (x *Index) PutTotal(bytes int64) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		return set(totalKey, binary.BigEndian.AppendUint64(nil, uint64(max(bytes, 0))))
	})
}

// Total is how many bytes all blobs had when that was last noted.
func (x *Index) Total() (bytes int64, known bool, err error) {
	value, err := x.get(totalKey)
	if err != nil || len(value) != 8 {
		return 0, false, err
	}
	bytes = int64(binary.BigEndian.Uint64(value)) //nolint:gosec // see below
	return bytes, bytes >= 0, nil                 // PutTotal writes no negative
}

// Forget removes what is known of the evicted d.
func (x *Index) Forget(d digest.Digest) error {
	return errors.Join(x.delete(mediaPrefix+d.String()), x.delete(usedPrefix+raw(d.String())), x.delete(checkPrefix+raw(d.String())))
}

// raw is how a digest, or the beginning of one, stands in the keys of what there
// is for every blob: with bytes for its hexadecimal digits, which halves the
// index. An odd digit at the end is left out, so that more begins with it.
func raw(d string) string {
	algorithm, digits, ok := strings.Cut(d, ":")
	if !ok {
		return d
	}
	value, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return d // nothing begins with it
	}
	return algorithm + ":" + string(value)
}

// cooked is the digest of a raw key.
func cooked(key string) digest.Digest {
	algorithm, value, _ := strings.Cut(key, ":")
	return digest.NewDigestFromBytes(digest.Algorithm(algorithm), []byte(value))
}

// get returns a copy of a value, or nil when there is none.
func (x *Index) get(key string) (value []byte, err error) {
	err = x.view(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte(key))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	return value, err
}

// scan calls visit with the records of a family whose keys begin with prefix,
// without the family's own; a value is visit's until it returns.
func (x *Index) scan(family, prefix string, visit func(key string, value []byte) error) error {
	return x.view(func(txn *badger.Txn) error { return scan(txn, family, prefix, visit) })
}

func scan(txn *badger.Txn, family, prefix string, visit func(key string, value []byte) error) error {
	options := badger.DefaultIteratorOptions
	options.Prefix = []byte(family + prefix)
	options.PrefetchValues = false
	it := txn.NewIterator(options)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		key := strings.TrimPrefix(string(item.Key()), family)
		if err := item.Value(func(value []byte) error { return visit(key, value) }); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) view(read func(*badger.Txn) error) error {
	return x.read(func(db *database) error { return db.View(read) })
}

// sync has what was written on disk when it returns.
func (x *Index) sync() error {
	return x.write(func(db *database) error { return db.Sync() })
}

func (x *Index) set(key string, value []byte) error {
	return x.update(func(txn *badger.Txn) error { return txn.Set([]byte(key), value) })
}

func (x *Index) delete(key string) error {
	return x.update(func(txn *badger.Txn) error { return txn.Delete([]byte(key)) })
}

// update changes what a snapshot is of.
func (x *Index) update(change func(*badger.Txn) error) error {
	x.changed.Store(true)
	return x.write(func(db *database) error {
		if err := x.room(db); err != nil {
			return err
		}
		return db.Update(change)
	})
}

// batch writes many records that a snapshot does not have.
func (x *Index) batch(fill func(set func(key string, value []byte) error) error) error {
	return x.write(func(db *database) error {
		if err := x.room(db); err != nil {
			return err
		}
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		if err := fill(func(key string, value []byte) error { return batch.Set([]byte(key), value) }); err != nil {
			return err
		}
		return batch.Flush()
	})
}
