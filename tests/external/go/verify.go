// Verify a Tollgate log with Go's own sumdb packages, which none of ours had a hand in: the checkpoint with sumdb/note,
// tiles and proofs with sumdb/tlog (tile height 8, as C2SP tlog-tiles has it).
//
//	verify -key VKEY [-ca FILE] [-older CHECKPOINT]... [-proof TLOG-PROOF]... BASE
//
// BASE is where the log is served (https://gate.example/log), or a directory with the same files. Prints what was checked
// as JSON; exits with 1 at the first thing that does not hold.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

type source struct {
	base   string
	client *http.Client
}

func (s source) read(path string) ([]byte, error) {
	if !strings.Contains(s.base, "://") {
		return os.ReadFile(filepath.Join(s.base, filepath.FromSlash(path)))
	}
	response, err := s.client.Get(s.base + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}

// tlog's paths name the height too: tile/8/0/x001/067 is our tile/0/x001/067.
func path(t tlog.Tile) string {
	return strings.Replace(t.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
}

func (s source) Height() int { return height }

func (s source) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		data, err := s.read(path(t))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// Called with tiles that the tree's hash vouches for.
func (s source) SaveTiles([]tlog.Tile, [][]byte) {}

// parse opens a signed checkpoint and returns its tree.
func parse(text []byte, known note.Verifiers) (tlog.Tree, error) {
	opened, err := note.Open(text, known)
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != opened.Sigs[0].Name {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of three lines, of the origin that signed it")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	raw, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(raw) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("no root hash")
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], raw)
	return tree, nil
}

// entries returns the data of all entries, from the bundles.
func entries(s source, size int64) ([][]byte, error) {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		width := size - n*256
		if width > 256 {
			width = 256
		}
		name := path(tlog.Tile{H: height, L: 0, N: n, W: int(width)})
		data, err := s.read(strings.Replace(name, "tile/0/", "tile/entries/", 1))
		if err != nil {
			return nil, err
		}
		for i := int64(0); i < width; i++ {
			if len(data) < 2 {
				return nil, fmt.Errorf("%s: too short", name)
			}
			length := int(data[0])<<8 | int(data[1])
			if len(data) < 2+length {
				return nil, fmt.Errorf("%s: too short", name)
			}
			all, data = append(all, data[2:2+length]), data[2+length:]
		}
		if len(data) != 0 {
			return nil, fmt.Errorf("%s: too long", name)
		}
	}
	return all, nil
}

// proof checks a c2sp.org/tlog-proof@v1 and returns the index it proves, for the leaf that the log has there.
func proof(text []byte, known note.Verifiers, hashes tlog.HashReader) error {
	head, signed, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	tree, err := parse(signed, known)
	if err != nil {
		return err
	}
	var way tlog.RecordProof
	for _, line := range lines[2:] {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return fmt.Errorf("not a hash: %q", line)
		}
		var hash tlog.Hash
		copy(hash[:], raw)
		way = append(way, hash)
	}
	leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return err
	}
	return tlog.CheckRecord(way, tree.N, tree.Hash, index, leaf[0])
}

func run() (map[string]int64, error) {
	var older, proofs files
	key := flag.String("key", "", "the log's verifier key")
	ca := flag.String("ca", "", "authority to trust for TLS, PEM")
	flag.Var(&older, "older", "an older checkpoint; may be repeated")
	flag.Var(&proofs, "proof", "a .tlog-proof; may be repeated")
	flag.Parse()
	verifier, err := note.NewVerifier(*key)
	if err != nil {
		return nil, err
	}
	known := note.VerifierList(verifier)
	s := source{base: strings.TrimSuffix(flag.Arg(0), "/"), client: http.DefaultClient}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	}
	text, err := s.read("checkpoint")
	if err != nil {
		return nil, err
	}
	tree, err := parse(text, known)
	if err != nil {
		return nil, err
	}
	hashes := tlog.TileHashReader(tree, s)
	data, err := entries(s, tree.N)
	if err != nil {
		return nil, err
	}
	// Every entry: its data is what the tree's leaf is the hash of, and its inclusion proof holds.
	for i, entry := range data {
		way, err := tlog.ProveRecord(tree.N, int64(i), hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckRecord(way, tree.N, tree.Hash, int64(i), tlog.RecordHash(entry)); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	// Every older size: the tree of that size, computed from the tiles, is the beginning of this one.
	for size := int64(1); size <= tree.N; size++ {
		old, err := tlog.TreeHash(size, hashes)
		if err != nil {
			return nil, err
		}
		way, err := tlog.ProveTree(tree.N, size, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckTree(way, tree.N, tree.Hash, size, old); err != nil {
			return nil, fmt.Errorf("size %d: %w", size, err)
		}
	}
	for _, file := range older {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		old, err := parse(text, known)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		way, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return nil, err
		}
		if err := tlog.CheckTree(way, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, file := range proofs {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := proof(text, known, hashes); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return map[string]int64{
		"size": tree.N, "entries": int64(len(data)), "older": int64(len(older)), "proofs": int64(len(proofs)),
	}, nil
}

func main() {
	done, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(done)
}
