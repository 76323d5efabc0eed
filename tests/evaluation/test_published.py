from __future__ import annotations

import pytest
from video_deblur.evaluation.published import TABLES, find_table


def rows(name):
    return {row.method: row for row in find_table(name).rows}


def test_the_papers_rows_are_as_printed():
    found = {
        name: [(r.method, r.psnr, r.ssim) for r in table.rows if r.method != "DBLRNet"]
        for name, table in TABLES.items()
    }
    assert found == {
        "gopro": [
            ("STFAN", 28.59, 0.86),
            ("SRN", 30.61, 0.90),
            ("EDVR", 31.54, 0.93),
            ("PVDNet", 31.52, 0.92),
            ("Deblur-NeRF", 31.89, 0.93),
            ("Wang & Long", 32.22, 0.95),
        ],
        "dvd": [
            ("STFAN", 31.24, 0.92),
            ("SRN", 30.53, 0.89),
            ("EDVR", 31.82, 0.92),
            ("PVDNet", 32.31, 0.93),
            ("Deblur-NeRF", 32.29, 0.92),
            ("Wang & Long", 32.59, 0.93),
        ],
    }


def test_misprints_are_told_from_what_is_meant():
    found = {row.method: (row.printed_lpips, row.lpips) for row in find_table("dvd").rows}
    assert {name: pair for name, pair in found.items() if pair[0]} == {
        "EDVR": ("0.9", 0.09),
        "PVDNet": ("0.9", 0.09),
        "Deblur-NeRF": ("0.8", 0.08),
    }
    assert not any(row.printed_lpips for row in find_table("gopro").rows)


def test_what_the_text_claims_and_the_table_gives_is_noted():
    gain = rows("gopro")["Wang & Long"].psnr - rows("gopro")["Deblur-NeRF"].psnr
    assert gain == pytest.approx(0.33)
    assert "0.43 dB" in rows("gopro")["Wang & Long"].note


def test_an_unknown_table_is_refused_by_name():
    with pytest.raises(ValueError, match="report table must be one of gopro, dvd, got 'reds'"):
        find_table("reds")
